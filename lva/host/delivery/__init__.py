"""From `publish()` to `handleEvent`: who gets points, the bounded mailbox, batches, retries, and the ledger.

Used from outside: `circuit`, `deliveries`, `delivery`, `histogram`, `ledger`, `outages`, `publisher`,
`shared`, `spool_file`, `tap`. Uses: `process`, `runtimes`.
"""
