"""What event plugins receive: monitoring points, and what happens to streams.

`types` is the one place in which to add another type of event.
"""
