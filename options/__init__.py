"""Command lines: one parser a stage, and ``opt.txt``."""
