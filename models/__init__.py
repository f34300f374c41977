"""The networks. Torch only: nothing here reads data sets, options or command lines."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
