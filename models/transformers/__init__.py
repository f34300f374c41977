"""Transformers over motion tokens: masked (base layer) and residual (other layers)."""
