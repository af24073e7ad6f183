"""Lightweight and dynamic 1-D convolutions for sequence models."""

__version__ = "0.1.0.dev0"
