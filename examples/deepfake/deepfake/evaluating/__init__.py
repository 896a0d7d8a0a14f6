"""How good a detector is: scores, metrics with intervals, baselines, robustness, calibration, plots, heat maps."""
