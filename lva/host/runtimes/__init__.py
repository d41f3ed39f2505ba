"""Where a plugin's code runs: the service's Trio loop, or an asyncio loop in a thread of its own.

Public to the host: `runtime` with `on_trio` and `on_asyncio`, `calls`, `errors`, `patience`; `loop` for who
looks at an asyncio loop. Imports from `watch`, `process`.
"""
