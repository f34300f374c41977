"""Captioning: a language model that continues a prefix made of motion."""
