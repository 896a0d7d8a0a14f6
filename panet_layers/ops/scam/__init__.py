"""SCAM, spatial and channel attention: the paper's formulas and faster ways to the same result."""
