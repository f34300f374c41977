"""Data sets: table of facts, loaders, text cleaning, caches, constraint files."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
