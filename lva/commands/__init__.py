"""The commands of `lva` besides `run`, one module each; what is heavy they import when they are called."""
