"""Streams: one process decodes each and has its frames looked at; the service supervises these processes.

The worker's side is `worker`, `decoder`, `frame`, `analysis` and `selection`; it imports nothing of the
host or the web, and alone needs PyAV. The service's side is `process`, `stream` and `streams`. Both know
`board`, `messages` and `geometry`. May import: the ground floor of `lva`.
"""
