"""Command line parsers, one for each script."""
