"""Transformers over motion tokens: masked (base layer) and residual (the layers above)."""
