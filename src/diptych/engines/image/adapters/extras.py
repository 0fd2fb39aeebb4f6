"""The files that a request adds to the model: read when it is accepted, used by its pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.adapters import MAX_ADAPTERS
from diptych.core.errors import InvalidRequest
from diptych.core.specs import ImageSpec
from diptych.engines.image.adapters.embeddings import Embedding, Vectors
from diptych.engines.image.adapters.layers import Adapter, AdapterLayers, Chosen
from diptych.engines.image.adapters.names import TEXT, TEXT_2, UNET
from diptych.engines.image.adapters.vae import load_vae
from diptych.prompts.names import name_of
from diptych.prompts.nodes import Network, Prompt

if TYPE_CHECKING:
    from diptych.engines.image.companions import Companions
    from diptych.engines.image.conditioning import ClipEncoder

Words = tuple[tuple[str, tuple[int, ...]], ...]


class ModelAdapters:
    """Where a model takes adapters and embeddings: `layers` and `vectors`."""

    def __init__(self, unet: Any, encoders: Sequence[ClipEncoder]) -> None:
        self.layers = AdapterLayers({UNET: unet, **{encoder.part: encoder.model for encoder in encoders}})
        self.vectors = Vectors({encoder.part: encoder.model.config.hidden_size for encoder in encoders})
        for encoder in encoders:
            encoder.use(self.layers, self.vectors)


@dataclass(frozen=True)
class Extras:
    """What was loaded for one request; it stays in the model for as long as somebody holds this.

    loras: by id. words: embeddings by the word that stands for each, in small letters. coder: the model with another
    VAE, which decodes and encodes pictures instead of it.
    """

    loras: Mapping[str, Adapter]
    words: Mapping[str, Embedding]
    coder: Any = None

    @classmethod
    def of(cls, spec: ImageSpec, files: Mapping[str, str], model: Any, companions: Companions) -> Extras:
        """Read everything that a spec names; safe from any thread. Raises InvalidRequest."""
        names = [one.id for one in spec.adapters] + [
            id for name, id in spec.named.items() if name.startswith("lora:")]
        told = {name.partition(":")[2]: id for name, id in spec.named.items() if name.startswith("embedding:")}
        adapters: ModelAdapters = model.adapters
        loras = {id: companions.get("lora", _path(files, "lora", id), _reader(adapters.layers, id))
                 for id in dict.fromkeys(names)}
        words = {word: companions.get("embedding", _path(files, "embedding", id), _reader(adapters.vectors, id))
                 for word, id in told.items()}
        coder = None
        if spec.vae is not None:
            id = spec.vae
            coder = companions.get("vae", _path(files, "vae", id), lambda path: load_vae(Path(path), id, model))
        return cls(loras, words, coder)

    @property
    def tokens(self) -> Words:
        """The tokens of each embedding, by its word."""
        return tuple((word, embedding.ids) for word, embedding in self.words.items())

    def chosen(self, spec: ImageSpec, prompts: Iterable[Prompt]) -> tuple[Chosen, Chosen]:
        """Adapters of the UNet and of the text encoders, with their weights: those of the spec and those that the
        prompts name, the same one counted together. Raises InvalidRequest."""
        strengths: dict[str, tuple[float, float]] = {}
        wanted = [(one.id, one.weight, one.weight if one.text_weight is None else one.text_weight)
                  for one in spec.adapters]
        wanted += [(_named(spec, network), network.weights["unet"], network.weights["te"])
                   for prompt in prompts for network in prompt.networks]
        for id, weight, text_weight in wanted:
            if id not in self.loras:
                raise InvalidRequest(f"prompt asks for <lora:{id[:200]}>, which is not there", param="prompt",
                                     code="lora_not_found")
            before = strengths.get(id, (0.0, 0.0))
            strengths[id] = (before[0] + weight, before[1] + text_weight)
        if len(strengths) > MAX_ADAPTERS:
            raise InvalidRequest(f"a picture has {len(strengths)} adapters, at most {MAX_ADAPTERS} are possible",
                                 param="adapters")
        unet = tuple((self.loras[id].key, weights[0]) for id, weights in strengths.items() if weights[0])
        text = tuple((self.loras[id].key, weights[1]) for id, weights in strengths.items()
                     if weights[1] and {TEXT, TEXT_2} & set(self.loras[id].deltas))
        return unet, text


def _reader(where: AdapterLayers | Vectors, id: str) -> Any:
    def read(path: str) -> Any:
        try:
            return where.load(Path(path), id)
        except OSError as error:
            raise InvalidRequest(f"{id!r} cannot be read: {error.strerror or error}", param="adapters",
                                 code="adapter_damaged") from error

    return read


def _path(files: Mapping[str, str], kind: str, id: str) -> str:
    path = files.get(f"{kind}:{id}")
    if path is None:
        raise InvalidRequest(f"there is no file of the {kind} {id[:200]!r} any more", param="adapters",
                             code=f"{kind}_not_found")
    return path


def _named(spec: ImageSpec, network: Network) -> str:
    """The id that a network in a prompt stands for."""
    return spec.named.get(f"lora:{name_of(network)}", network.name)
