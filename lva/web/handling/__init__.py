"""One request from the server to a plugin's handler and back: contained, bounded, and counted as points.

Used from outside: `application`, `exchange`, `requests`, `runners`, `short_waits`. Uses: no other room of
the web.
"""
