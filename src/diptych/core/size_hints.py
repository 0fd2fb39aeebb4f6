"""What Stable Diffusion XL is told about the size of the picture that it learned from (Podell et al. 2023,
https://arxiv.org/abs/2307.01952, section 2.2)."""

from __future__ import annotations

from pydantic import BaseModel, Field

from diptych.core.image_options import Options

LARGEST = 16_384


class SizeHints(Options):
    """Lengths are pixels. The model paints as if it had seen a picture of `original_width` × `original_height`, cut at
    `crop_left` and `crop_top`, shown at `target_width` × `target_height`; its refiner is told a score of beauty in
    place of the last. Sizes that are left out are those of the picture that is made."""

    original_width: int | None = Field(None, ge=1, le=LARGEST)
    original_height: int | None = Field(None, ge=1, le=LARGEST)
    crop_left: int = Field(0, ge=0, le=LARGEST)
    crop_top: int = Field(0, ge=0, le=LARGEST)
    target_width: int | None = Field(None, ge=1, le=LARGEST)
    target_height: int | None = Field(None, ge=1, le=LARGEST)
    aesthetic_score: float = Field(6.0, ge=0.0, le=10.0, description="what the refiner aims at")
    negative_aesthetic_score: float = Field(2.5, ge=0.0, le=10.0, description="what the refiner leads away from")

    def numbers(self, width: int, height: int) -> tuple[float, ...]:
        """The base model's six: original height and width, top and left, target height and width."""
        return (self.original_height or height, self.original_width or width, self.crop_top, self.crop_left,
                self.target_height or height, self.target_width or width)

    def refiner_numbers(self, width: int, height: int, negative: bool) -> tuple[float, ...]:
        """The refiner's five: the first four of the base model's, and the score."""
        score = self.negative_aesthetic_score if negative else self.aesthetic_score
        return (*self.numbers(width, height)[:4], score)


class SizeOptions(BaseModel):
    """Of the models that know what a size is."""

    size_hints: SizeHints | None = Field(None, description="sizes that Stable Diffusion XL is told")
