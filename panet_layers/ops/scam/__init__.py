"""Spatial and channel attention: the formulas (`reference`) and a thriftier way to them (`collapsed`)."""
