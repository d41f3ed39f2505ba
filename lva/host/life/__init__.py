"""One plugin's states: its record, lives, attempts and restarts, and what is left of it.

Public to the host: `life`, `record`, `leaks`, `tasks`. Imports from `loading` and below.
"""
