"""Agents that share streams over a Redis server: their table, and a lease of each stream.

It knows nothing of video: who works on a stream is a `Holder`, which is given. It may import `lva.settings`.
"""
