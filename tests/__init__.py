"""Tests of behaviour, and the parity runner."""
