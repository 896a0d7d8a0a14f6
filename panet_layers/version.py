"""The package's version, read by the build and by `panet_layers.__version__`."""

__version__ = "0.1.0"
