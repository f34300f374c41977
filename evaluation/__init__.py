"""Metrics and protocols: numbers from embeddings, joints and features. Nothing here draws a picture."""
import utils  # noqa: F401 (sets the thread policy before torch is loaded)
