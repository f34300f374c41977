"""The one training loop: stages plug into it; schedules, checkpoints and logging serve it."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
