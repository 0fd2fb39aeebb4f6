"""Pictures before they are encoded and after they are decoded: masks, sizes, extensions, and putting parts back.

Works on pixels alone (numpy and Pillow)."""

from diptych.engines.image.canvas.canvas import Canvas

__all__ = ["Canvas"]
