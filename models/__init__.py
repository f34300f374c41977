"""Networks and the generation pipeline. This package reads no data sets and no command lines."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
