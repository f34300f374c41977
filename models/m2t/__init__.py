"""Captioning: a language model that continues a prefix of motion embeddings."""
