"""Tests of behaviour, and the parity runner."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
