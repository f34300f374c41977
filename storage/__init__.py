"""Reading and writing of checkpoints, and loading of models by name."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
