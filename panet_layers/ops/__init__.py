"""The operators behind the layers: one folder an operator, one file a way to compute it."""
