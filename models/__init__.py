"""Networks and the generation pipeline. Nothing here reads data sets or command lines."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
