"""Data sets, text processing, motion files and constraint files."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
