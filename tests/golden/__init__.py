"""Parity checks. Each module lists the fixtures that it can check in ``MODELS`` and ``MOTION``."""
