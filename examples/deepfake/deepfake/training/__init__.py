"""One training run: settings, processes, checkpoints, log."""
