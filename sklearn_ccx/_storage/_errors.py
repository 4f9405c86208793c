"""What goes wrong with trees and files, before it is said where."""


class DamagedError(ValueError):
    """What is wrong with a file, without its name."""


class RefusedError(Exception):
    """Why a value cannot be kept, without its place in the tree."""
