"""From OpenAI's edits and variations of pictures to specs."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from diptych.api.native.inputs import limits_of
from diptych.api.openai.convert import IMAGE_NAMES, picture_spec
from diptych.api.openai.forms import Form, read_form
from diptych.api.openai.schema import EditRequest, VariationRequest
from diptych.api.openai.unsupported import EDIT
from diptych.api.services import Services
from diptych.core.errors import DiptychError, InvalidRequest
from diptych.core.infotext import spec_from_text_chunks
from diptych.core.pictures import ImageLimits, decode_picture
from diptych.core.specs import ImageSpec

if TYPE_CHECKING:
    from PIL import Image

EDIT_NAMES = {**IMAGE_NAMES, "init_image": "image", "mask.image": "mask"}
MASKED_STRENGTH, EDIT_STRENGTH, VARIATION_STRENGTH = 1.0, 0.75, 0.6
"""Defaults: what is masked is made anew, as OpenAI does; all of a picture is changed, or varied, so far."""
NO_PROMPT = " "
"""For a variation of a picture that does not tell its prompt."""


async def read_edit(request: Request) -> tuple[EditRequest, Form]:
    """Raises InvalidRequest, TooLarge, UnsupportedMedia."""
    form = await read_form(request)
    return form.body(EditRequest, ("styles",)), form


async def read_variation(request: Request) -> tuple[VariationRequest, Form]:
    """Raises InvalidRequest, TooLarge, UnsupportedMedia."""
    form = await read_form(request)
    return form.body(VariationRequest, ("styles",)), form


async def edit_spec(services: Services, body: EditRequest, form: Form) -> ImageSpec:
    """The spec of an edit; its pictures are stored. Raises InvalidRequest, TooLarge, Unavailable."""
    return await asyncio.to_thread(_edit_spec, services, body, form)


async def variation_spec(services: Services, body: VariationRequest, form: Form) -> ImageSpec:
    """The spec of variations; the picture is stored. Raises InvalidRequest, TooLarge, Unavailable."""
    return await asyncio.to_thread(_variation_spec, services, body, form)


def _edit_spec(services: Services, body: EditRequest, form: Form) -> ImageSpec:
    limits = limits_of(services.settings)
    picture = decode_picture(form.needed("image"), limits, param="image").image
    mask = _mask(form.file("mask"), picture, limits)
    values: dict[str, Any] = {"init_image": services.inputs.put(picture).id, "strength": body.strength}
    if mask is not None:
        options = {"image": services.inputs.put(mask).id, "blur": body.mask_blur, "padding": body.mask_padding,
                   "region": body.mask_region, "fill": "original" if form.file("mask") else "fill"}
        values["mask"] = {name: value for name, value in options.items() if value is not None}
    if body.strength is None:
        values["strength"] = EDIT_STRENGTH if mask is None else MASKED_STRENGTH
    return picture_spec(body, values, EDIT, EDIT_NAMES)


def _mask(raw: bytes | None, picture: Image.Image, limits: ImageLimits) -> Image.Image | None:
    """White where the mask, or the picture if there is no mask, is transparent; None where the picture is opaque."""
    from PIL import ImageChops

    if raw is None:
        if picture.mode != "RGBA" or picture.getchannel("A").getextrema() == (255, 255):
            return None
        return ImageChops.invert(picture.getchannel("A"))
    mask = decode_picture(raw, limits, param="mask").image
    if mask.mode != "RGBA" or mask.getchannel("A").getextrema() == (255, 255):
        raise InvalidRequest("mask has no transparent part: what is to be repainted must be transparent in it",
                             param="mask")
    return ImageChops.invert(mask.getchannel("A"))


def _variation_spec(services: Services, body: VariationRequest, form: Form) -> ImageSpec:
    raw = form.needed("image")
    picture = decode_picture(raw, limits_of(services.settings), param="image").image
    strength = VARIATION_STRENGTH if body.strength is None else body.strength
    values: dict[str, Any] = {"init_image": services.inputs.put(picture).id, "strength": strength}
    if body.prompt is None:
        values |= _prompt_of(raw)
    return picture_spec(body, values, EDIT, EDIT_NAMES)


def _prompt_of(raw: bytes) -> dict[str, Any]:
    """The prompts that a picture carries in its text, if it does."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as opened:
            made = spec_from_text_chunks({key: value for key, value in opened.info.items() if isinstance(value, str)})
    except (DiptychError, OSError, ValueError, SyntaxError):
        return {"prompt": NO_PROMPT, "prompt_syntax": "plain"}
    first = made.prompts_of(0)
    return {"prompt": first.prompt, "negative_prompt": first.negative_prompt, "prompt_syntax": made.prompt_syntax}
