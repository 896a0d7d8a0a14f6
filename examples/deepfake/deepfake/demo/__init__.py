"""The embedded demonstration data: drawn faces."""
