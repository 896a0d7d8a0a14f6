"""The README and the documentation, run."""
