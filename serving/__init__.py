"""What app.py serves: the work behind the tabs, the page, and the files that it lends out for a while."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
