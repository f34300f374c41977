"""Checking a data set, and repairing what is safe to repair."""
