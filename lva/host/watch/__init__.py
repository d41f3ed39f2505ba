"""The watch over the event loops: which plugin blocked one, for how long, and at which line.

Public are `LoopWatch`, `LoopUses`, `Pulse`, and `enter_plugin` with `leave_plugin`, from their modules.
Imports `lva.logs` and `lva.posix_timers`, and nothing of the host's other rooms: they hand over what is to be
watched, as values.
"""
