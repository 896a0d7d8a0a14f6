"""Prepared data: the manifest, the images of a split, batches, the cache."""
