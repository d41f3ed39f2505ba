"""Streams: one process decodes each and has its frames looked at; the service supervises these processes.

What is in no room, several rooms know: what a stream is (`definition`, `source`, `shapes`, `schedule`,
`callbacks`), how they talk (`spec`, `messages`, `board`, `codes`), and what analytics plugins get (`frame`,
`geometry`) and share (`episodes`, `looking`, `presence`). The rooms stand one above the other, and each
imports only from those below it: `worker`, `processes`, `supervision` (one stream), `registry` (all of
them), `reporting`, `fleet`. Beside itself and `lva.fleet`, it may import what knows nothing of host and web.
"""
