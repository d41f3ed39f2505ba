"""The process that serves: its sockets and signals, Hypercorn with its faults corrected, the state directory.

`serve` is the process while it serves, on the socket of `listening`; `accepting` and `connections` are what
it does with a client; `idle`, `http1` and `http2` correct Hypercorn. Stands on `lva.app`, which owns the
host; HTTP/1.1 of our own is `lva.http`.
"""
