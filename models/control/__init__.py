"""Spatial control of generated motions: constraints and their optimisation through the tokenizer's decoder."""
