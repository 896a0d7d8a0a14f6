"""Scores, metrics with their intervals, yardsticks, plots and heat maps."""
