"""One small program per rule: reads flags, calls one function."""
