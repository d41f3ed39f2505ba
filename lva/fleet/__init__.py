"""Agents that share streams over a Redis server: their table, and a lease of each stream.

It knows nothing of video: who works on a stream is a `Holder`, which is given. It may import `lva.settings`.

`config` is what an operator sets, `rows` what is kept on the server, and `server` the connection to it, which
runs `scripts/`: each changes the table in one step. `view` is what this agent knows of the table. `standing`
joins and beats: each beat renews the leases. `decisions` says who takes which stream, `work` carries that out
with the `Holder`, and `reports` tells what becomes of the streams. `fleet` is the agent, made of all these.
"""
