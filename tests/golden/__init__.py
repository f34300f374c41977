"""Parity checks: each module lists the fixtures that it knows (``MODELS``, ``MOTION``) and compares them."""
