"""Motions to look at: films, contact sheets, pages."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
