"""What plugins do to the whole process: its state, forks, child processes, threads.

Used from outside: `children`, `forks`, `guard`, `limiters`, `needed_threads`, `pieces`, `starts`, `state`,
`threads`. Uses: `plugin_modules`, `watch`.
"""
