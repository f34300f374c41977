"""Data sets on disk and in memory: one table of facts, loaders, text cleaning, feature preparation."""
