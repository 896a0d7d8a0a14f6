"""EMAM, efficient multi-scale attention: the paper's formulas and faster ways to the same result."""
