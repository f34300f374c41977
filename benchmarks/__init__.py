"""Scripts that time and count, and what they share."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
