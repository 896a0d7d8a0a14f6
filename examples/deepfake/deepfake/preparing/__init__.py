"""Turns sources into face crops: tasks, frames and faces of each source, crops, and the manifest."""
