"""The training loop, its stages, schedules, checkpoints and logging."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
