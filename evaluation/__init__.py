"""Metrics and protocols: numbers from embeddings, joints and features. Nothing here draws a picture."""
