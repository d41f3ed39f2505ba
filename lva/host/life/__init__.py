"""One plugin's states: its record, lives, attempts and restarts, and what is left of it.

Used from outside: `leaks`, `life`, `record`, `states`, `tasks`, `view`. Uses: `delivery`, `loading`,
`plugin_modules`, `process`, `routing`, `runtimes`.
"""
