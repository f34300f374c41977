"""The one training loop: stages plug into it; schedules, checkpoints and logging serve it."""
