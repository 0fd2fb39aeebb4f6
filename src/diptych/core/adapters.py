"""Adapters of image models in specs: LoRA and its relatives, embeddings, another VAE."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from diptych.core.image_options import Options, Reference, Several

MAX_ADAPTERS = 16
"""Of one picture, those that its prompts name among them."""
MAX_STRENGTH = 10.0
PartId = Annotated[str, Field(min_length=1, max_length=300)]


class ImageAdapter(Options):
    """A LoRA (LoCon, LoHa, LoKr, DoRA) of the library."""

    id: PartId = Field(description="its id; `diptych models list --parts` shows them")
    weight: float = Field(1.0, ge=-MAX_STRENGTH, le=MAX_STRENGTH, description="how much it counts in the UNet")
    text_weight: float | None = Field(
        None, ge=-MAX_STRENGTH, le=MAX_STRENGTH, description="how much in the text encoder; as weight when left out")


class AdapterOptions(BaseModel):
    """Files that change the model for one request."""

    adapters: Several[ImageAdapter] = Field((), max_length=MAX_ADAPTERS, description=(
        "LoRA adapters, all together; <lora:name:weight> in a prompt adds one, too"))
    vae: PartId | None = Field(None, description="id of a VAE of the library that is used instead of the model's own")


def adapter_references(options: AdapterOptions, named: dict[str, str]) -> tuple[Reference, ...]:
    """The files of these fields, and of what prompts name: ids by "lora:NAME" and "embedding:WORD"."""
    found = [Reference("lora", one.id, f"adapters.{number}.id") for number, one in enumerate(options.adapters)]
    if options.vae is not None:
        found.append(Reference("vae", options.vae, "vae"))
    found += [Reference(name.partition(":")[0], id, "prompt") for name, id in named.items()]
    return tuple(found)
