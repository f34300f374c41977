"""Data sets on disk and in memory: one table of facts, loaders, text cleaning, feature preparation."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
