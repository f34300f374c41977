"""Metrics and evaluation protocols."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
