"""What plugins do to the whole process: its state, forks, child processes, threads.

Public to the host: `guard`, `forks`, `starts`, `children`, `limiters`, `threads`. Imports from `watch` only.
"""
