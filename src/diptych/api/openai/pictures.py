"""Pictures inside messages, read under the operator's limits."""

from __future__ import annotations

import base64
from typing import Any

from diptych.api.errors import shown
from diptych.core.chat import ImagePart
from diptych.core.errors import InvalidRequest, TooLarge
from diptych.core.pictures import ImageLimits, decode_picture, picture_from_text
from diptych.library.fetch import fetch_allowed
from diptych.settings import Settings

MAX_PICTURES = 64
"""In one request; each is decoded, and may be fetched."""


class Pictures:
    """Reads the pictures of one request. Blocks: use it in a worker thread where there may be any.

    Raises:
        InvalidRequest: no picture that can be read here, or too many. TooLarge: over the limits of the settings.
        Forbidden: a URL of a host that the operator does not allow.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
        self._count = 0

    def from_url(self, url: Any, param: str) -> ImagePart:
        """Of a `data:` URL, or an http(s) URL of an allowed host."""
        if not isinstance(url, str) or not url:
            raise InvalidRequest(f"{param} must be a data: or http(s) URL, not {shown(url)}", param=param)
        if url[:5].lower() == "data:":
            return self.from_base64(url, param)
        self._one_more(param)
        fetched = fetch_allowed(url, self._settings, param=param)
        picture = decode_picture(fetched.data, self._limits, param=param)
        return _part(picture.raw, picture.media_type)

    def from_base64(self, text: Any, param: str) -> ImagePart:
        if not isinstance(text, str) or not text:
            raise InvalidRequest(f"{param} must be base64 of a picture, not {shown(text)}", param=param)
        self._one_more(param)
        picture = picture_from_text(text, self._limits, param=param)
        return _part(picture.raw, picture.media_type)

    def _one_more(self, param: str) -> None:
        self._count += 1
        if self._count > MAX_PICTURES:
            raise TooLarge(f"{param}: a request may have {MAX_PICTURES} pictures at most", param=param,
                           code="too_many_images")


def _part(raw: bytes, media_type: Any) -> ImagePart:
    return ImagePart(media_type=media_type, data=base64.b64encode(raw).decode())
