"""Prompts of Mistral's models from their own tekken.json, with pictures as the model takes them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.instruct.chunk import ImageChunk
from mistral_common.tokens.tokenizers.image import ImageConfig, ImageEncoder, ImageEncoding
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from PIL import Image

from diptych.core.chat import Message, Tool
from diptych.core.errors import InvalidRequest
from diptych.engines.text import mistral

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours that the vision tower was trained with (CLIP's)."""
Pixels = np.ndarray[Any, np.dtype[np.float32]]


class TekkenPrompts(mistral.MistralPrompts):
    """Prompts for one model.

    Args:
        path: tekken.json.

    Raises:
        InvalidRequest: the file is damaged or of an unknown version.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.tokenizer = MistralTokenizer.from_file(path)
        except (MistralCommonException, ValueError, KeyError, TypeError, AssertionError) as error:
            raise InvalidRequest(f"{path.parent.name}/{path.name} cannot be read: {error}"[:400],
                                 param="model") from error
        instruct: Any = self.tokenizer.instruct_tokenizer
        self._tekken = instruct.tokenizer
        self._encoder: PictureEncoder | None = None
        if instruct.image_encoder is not None:
            self._encoder = PictureEncoder(instruct.image_encoder.image_config, instruct.image_encoder.special_ids)
            instruct.image_encoder = self._encoder

    @property
    def tekken(self) -> Any:
        return self._tekken

    @property
    def sees(self) -> bool:
        """Whether pictures can be part of a prompt."""
        return self._encoder is not None

    def chat(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """Token ids of the prompt, with those that stand for each row of each picture. Raises InvalidRequest."""
        return self.encode(messages, tools, lambda part: picture(part.data))

    def pixels(self, data: str) -> Pixels:
        """A picture (base64 of a file) as the vision tower takes it: (3, height, width), multiples of a patch."""
        assert self._encoder is not None
        pixels: Pixels = self._encoder(ImageChunk(image=picture(data))).image
        return pixels


class PictureEncoder(ImageEncoder):  # type: ignore[misc]
    """mistral-common's count of tokens for a picture, and its pixels by Pillow alone."""

    def __init__(self, config: ImageConfig, special_ids: Any) -> None:
        super().__init__(config, special_ids)

    def __call__(self, content: Any) -> ImageEncoding:
        image = content.image.convert("RGB")
        columns, rows = self._image_to_num_tokens(image)
        tokens = ([self.special_ids.img] * columns + [self.special_ids.img_break]) * rows
        tokens[-1] = self.special_ids.img_end
        side = self.image_config.image_patch_size * self.image_config.spatial_merge_size
        resized = image.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
        values: Pixels = np.asarray(resized, dtype=np.float32) / np.float32(255)
        values -= np.array(MEAN, np.float32)
        values /= np.array(DEVIATION, np.float32)
        return ImageEncoding(tokens=tokens, image=np.ascontiguousarray(values.transpose(2, 0, 1)))


def picture(data: str) -> Image.Image:
    """The picture in `data`, which was checked at the edge; transparent parts become white."""
    try:
        image: Image.Image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
        return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidRequest(f"messages hold a picture that cannot be decoded: {error}"[:300],
                             param="messages") from error
