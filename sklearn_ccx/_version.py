"""The version, for the parts of the package that lie below its face."""

__version__ = "0.1.0.dev0"
