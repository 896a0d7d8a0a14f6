"""How good a detector is: scores, metrics with intervals, yardsticks, robustness, calibration, plots, heat maps."""
