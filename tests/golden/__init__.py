"""Parity checks: each module says which fixtures it knows (``MODELS``, ``MOTION``) and how it compares them."""
