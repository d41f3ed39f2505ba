"""Streams: one process decodes each and has its frames looked at; the service supervises these processes.

The worker's side is `worker`, `decoder` on `opening`, `same_server`, `pictures` and `failures`, `frame`,
`newest`, `niceness`, `analysis` and `selection`; it imports nothing of the service's side, the host or the
web, and alone needs PyAV. On the service's side, each on those before it: `child` and `forks` (processes;
`forking` runs in the one that workers are forked from), `process` (a worker, started and ended), `stream`
(what is known of one), `retries` and `watch`, `attempt` (one worker's work), `supervisor` (all the work on
a stream) in its task (`tasks`), and `streams` (all of them, which `admission` lets in and `keeper` keeps in
`store`). Both sides know `board`, `messages` and `geometry`. May import: the ground floor of `lva`.
"""
