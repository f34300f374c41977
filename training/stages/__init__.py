"""The training stages, each with a model, its loss and its validation."""
