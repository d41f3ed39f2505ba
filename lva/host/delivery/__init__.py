"""From `publish()` to `handleEvent`: who gets points, the bounded mailbox, batches, retries, and the ledger.

Public to the host: `publisher`, `delivery`, `mailbox`, `spool`, `tap`. Imports from `runtimes` and below.
"""
