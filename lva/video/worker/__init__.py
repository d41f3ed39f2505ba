"""The worker's side: the process that decodes one stream and has its frames looked at.

It imports nothing of the service's side, the host or the web, and alone needs PyAV. Used from outside:
`analysis`, `main`. Uses: no other room of streams.
"""
