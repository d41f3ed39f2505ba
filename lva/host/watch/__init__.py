"""The watch over the event loops: which plugin blocked one, for how long, and at which line.

Used from outside: `clock`, `loop_watch`, `pulse`, `uses`. Uses: nothing of the host. The other rooms hand
over what is to be watched, as values.
"""
