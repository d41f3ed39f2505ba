"""What can be seen to be wrong with a plugin without running it: `lva check`."""
