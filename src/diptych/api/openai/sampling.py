"""From the fields that say how tokens are chosen to `Sampling`. Pure."""

from __future__ import annotations

from typing import Any

from diptych.api.errors import path_of, shown
from diptych.api.openai.checked import checked, list_at, object_at, same, text_at
from diptych.api.openai.schema import SamplingFields
from diptych.core.errors import InvalidRequest
from diptych.core.specs import Adapter, Sampling

MAX_STOPS, MAX_STOP = 16, 1000
MAX_BIASES = 10_000
MAX_BIAS = 100.0
_PLAIN = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "frequency_penalty", "presence_penalty", "repeat_last_n",
    "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "min_tokens", "ignore_eos",
    "repetition_stop",
)
TRUNCATIONS = ("auto", "disabled")


def sampling_of(body: SamplingFields, max_tokens: int | None, logprobs: int | None) -> Sampling:
    """Raises InvalidRequest."""
    values: dict[str, Any] = {name: value for name in _PLAIN if (value := getattr(body, name)) is not None}
    penalty, seed = same(body, "repeat_penalty", "repetition_penalty"), same(body, "seed", "random_seed")
    if penalty is not None:
        values["repeat_penalty"] = penalty
    if body.dry_sequence_breakers is not None:
        values["dry_sequence_breakers"] = tuple(body.dry_sequence_breakers)
    if max_tokens is not None and (body.min_tokens or 0) > max_tokens:
        raise InvalidRequest(
            f"min_tokens is {body.min_tokens}, more than the {max_tokens} that the answer may have", param="min_tokens")
    return checked(Sampling, **values, seed=seed, max_tokens=max_tokens, stop=stops_of(body.stop),
                   logit_bias=_biases(body.logit_bias), logprobs=logprobs)


def stops_of(stop: Any, name: str = "stop") -> tuple[str, ...]:
    """The texts that end an answer. Raises InvalidRequest."""
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise InvalidRequest(
            f"{name} must be text or a list of at most {MAX_STOPS} texts, not {shown(stop)}", param=name)
    for index, text in enumerate(stops):
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_STOP:
            where = name if isinstance(stop, str) else path_of((name, index))
            raise InvalidRequest(f"{where} must have 1 to {MAX_STOP} characters, not {shown(text)}", param=where)
    return tuple(stops)


def truncation_of(value: str | None) -> dict[str, Any]:
    """`truncation` of a spec, where the client gave one."""
    if value is not None and value not in TRUNCATIONS:
        raise InvalidRequest(f"truncation is {shown(value)}, not auto or disabled", param="truncation")
    return {} if value is None else {"truncation": value}


def adapters_of(body: SamplingFields) -> tuple[Adapter, ...]:
    """`adapters: [{id, weight}]` or llama.cpp's `lora: [{id, scale}]`; a text alone is an id."""
    if body.adapters is not None and body.lora is not None:
        raise InvalidRequest("adapters and lora are two names of one field; give one of them", param="lora")
    name = "adapters" if body.lora is None else "lora"
    given = body.adapters if body.lora is None else body.lora
    if given is None:
        return ()
    return tuple(_adapter(item, path_of((name, index))) for index, item in enumerate(list_at(given, name, most=8)))


def _adapter(item: Any, where: str) -> Adapter:
    if isinstance(item, str):
        return checked(Adapter, where, id=item)
    values = object_at(item, where, "an adapter's id, or an object with id and weight")
    id = text_at(values.get("id", values.get("name")), f"{where}.id", empty=False)
    weight = values.get("weight", values.get("scale", 1.0))
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise InvalidRequest(f"{where}.weight must be a number, not {shown(weight)}", param=f"{where}.weight")
    return checked(Adapter, where, id=id, weight=weight)


def _biases(value: Any) -> dict[str, float]:
    """OpenAI's object, or llama.cpp's list of pairs."""
    if value is None:
        return {}
    if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        pairs = [(str(pair[0]), pair[1]) for pair in value if isinstance(pair[0], (int, str))]
    else:
        pairs = list(object_at(value, "logit_bias", "an object of token ids or texts and numbers").items())
    if len(pairs) > MAX_BIASES:
        raise InvalidRequest(f"logit_bias has {len(pairs)} entries, at most {MAX_BIASES} are taken", param="logit_bias")
    for key, bias in pairs:
        number = isinstance(bias, (int, float)) and not isinstance(bias, bool)
        if not key or not number or not -MAX_BIAS <= bias <= MAX_BIAS:
            raise InvalidRequest(
                f"logit_bias of {shown(key)} must be a number from -100 to 100, not {shown(bias)}", param="logit_bias")
    return {key: float(bias) for key, bias in pairs}
