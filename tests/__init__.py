"""Tests, and the runner of parity fixtures."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
