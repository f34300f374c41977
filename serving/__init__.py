"""Server of app.py: web page, request handling and temporary files."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
