"""Benchmarks: speed, memory, control, and physical checks of generated motions."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
