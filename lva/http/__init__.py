"""HTTP/1.1 over connections in clear text, for any ASGI application on Trio.

Public are `lva.http.connection.HttpConnection`, which serves a connection, and `lva.http.head` and
`lva.http.body`, which read requests. Knows nothing of plugins; imports nothing of the host or `lva.web`.
"""
