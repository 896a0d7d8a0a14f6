"""Layers on drawn examples, judged by error budgets from float64."""
