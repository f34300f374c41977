"""Training loop, training stages, schedules and distributed training."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
