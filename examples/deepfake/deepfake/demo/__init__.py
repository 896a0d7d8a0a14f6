"""The embedded demonstration: real portraits by split, and shots of them, real and forged, made on the spot."""
