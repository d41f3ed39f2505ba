"""The log: from whoever says something to standard error, limited, without secrets, and with nobody waiting.

`loggers` is what the rest of the service uses; `records` become lines, `writer` writes them, `tail` keeps the
newest for status pages. Imports nothing of the service but `lva.errors` and `lva.stacks`.
"""
