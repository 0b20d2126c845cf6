"""HTTP in, HTTP out: the composition root, and the only room that knows every other."""

__version__ = "0.1.0"
