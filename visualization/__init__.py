"""Motion visualization: videos, contact sheets, web pages, glTF."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
