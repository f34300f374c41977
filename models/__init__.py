"""Networks and the generation pipeline. This package does not load data sets or parse command lines."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
