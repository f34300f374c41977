"""The server of app.py: the page, the work behind its tabs, and temporary result files."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
