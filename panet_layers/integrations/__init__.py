"""The layers by name or argument in other packages, a file for each; nothing is imported before it is asked for."""
