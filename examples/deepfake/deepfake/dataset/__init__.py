"""Reads a data folder: its manifest, the images of a split, the cache of decoded images, batches."""
