"""The example: its commands and its rooms."""
