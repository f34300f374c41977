"""Check a data set and repair faults that are safe to repair."""
