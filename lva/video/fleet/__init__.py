"""The streams of a fleet: each agent tells of all and takes changes, and works on those that it holds.

Used from outside: `api`, `far_events`, `forwarding`, `metrics`, `schemas`, `streams`. Uses: `processes`,
`supervision`, `registry`, `reporting`.
"""
