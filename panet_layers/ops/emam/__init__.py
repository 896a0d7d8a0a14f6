"""Efficient multi-scale attention: the formulas (`reference`) and their exact shortcut (`collapsed`)."""
