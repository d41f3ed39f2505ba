"""The processes of streams as the service has them: workers are forked, started, heard, and ended for sure.

`forking` and `remains` run in the processes that workers are forked from. Used from outside: `forks`,
`process`. Uses: `worker`.
"""
