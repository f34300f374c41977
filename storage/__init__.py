"""What is on disk: checkpoints and their settings, models rebuilt from them, and released files of other projects."""
