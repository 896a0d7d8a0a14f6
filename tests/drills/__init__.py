"""Drills: what users fear is done on purpose, to real commands. Most are `long`: run by hand before a release."""
