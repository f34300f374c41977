"""The training stages: one model, its loss and its validation each."""
