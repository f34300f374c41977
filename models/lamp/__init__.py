"""Language-motion pretraining: one Q-Former that reads captions, queries motions, and relates the two."""
