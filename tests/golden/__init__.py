"""Parity checks of this project against fixtures of published code."""
