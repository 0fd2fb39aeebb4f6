"""Diptych: language models and image models on one machine as one system."""

__version__ = "0.1.0"
