"""Command-line options of the scripts."""
