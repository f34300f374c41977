"""Files on disk: checkpoints and their settings, models rebuilt from them, and released files of other projects."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
