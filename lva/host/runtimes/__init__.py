"""Where a plugin's code runs: the service's Trio loop, or an asyncio loop in a thread of its own.

Used from outside: `calls`, `errors`, `loop`, `on_asyncio`, `on_trio`, `patience`, `places`, `runtime`,
`watched_loop`. Uses: `process`, `watch`.
"""
