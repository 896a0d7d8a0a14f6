"""The package's version, read by the build and by `panet_layers.__version__`."""

__version__ = "0.2.0"
