"""Attention into other networks."""
