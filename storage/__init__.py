"""Read and write checkpoints, and load models by name."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
