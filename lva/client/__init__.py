"""Commands that ask a running service, and tell it what to do."""
