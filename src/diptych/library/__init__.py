"""Models on disk: identify them from their headers, list them, pull the starter models."""

from diptych.library.library import Library
from diptych.library.pull import pull

__all__ = ["Library", "pull"]
