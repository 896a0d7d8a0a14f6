"""Trains a detector: settings, the run and its folder, the steps of an epoch, checkpoints, log, processes."""
