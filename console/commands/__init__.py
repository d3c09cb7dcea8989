"""One module for each command that needs more than a call."""
