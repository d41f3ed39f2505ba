"""All streams of this agent: let in, made, changed, stopped, resumed, removed, and kept over a restart.

Used from outside: `admission`, `elsewhere`, `renewal`, `revision`, `store`, `streams`. Uses: `supervision`.
"""
