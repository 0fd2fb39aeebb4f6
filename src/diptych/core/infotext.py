"""PNG text of a picture: A1111's `parameters` line for other programs, and the whole spec as JSON under `diptych`.

The JSON is what `diptych rerun` trusts; the A1111 text cannot tell a prompt's own "Steps: " line from its last line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

import diptych
from diptych.core.cards import Card
from diptych.core.checks import picture_seed, picture_size
from diptych.core.errors import InvalidRequest
from diptych.core.samplers import schedule_label
from diptych.core.specs import FinishSpec, ImageSpec, JobSpec, recorded_spec

PARAMETERS_KEY = "parameters"
SPEC_KEY = "diptych"
NEGATIVE = "Negative prompt:"

_PAIR = re.compile(r'\s*([A-Za-z][\w \-/]*):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
_NUMBERS = ("guidance", "eta", "s_churn", "s_tmin", "s_tmax", "s_noise", "rho", "sigma_min", "sigma_max",
            "guidance_rescale")
_SAMPLING: dict[str, str] = {
    "Eta": "eta", "Sigma churn": "s_churn", "Sigma tmin": "s_tmin", "Sigma tmax": "s_tmax", "Sigma noise": "s_noise",
    "Schedule rho": "rho", "Schedule min sigma": "sigma_min", "Schedule max sigma": "sigma_max",
    "Prediction type": "prediction_type", "CFG Rescale": "guidance_rescale",
}
_FIELDS: dict[str, str] = {
    **_SAMPLING, "Eta DDIM": "eta",
    "Steps": "steps", "Sampler": "sampler", "Schedule type": "schedule", "CFG scale": "guidance", "Seed": "seed",
    "Model": "model", "Model hash": "model_hash", "Version": "version", "Clip skip": "clip_skip",
}


def spec_of_picture(spec: ImageSpec, index: int, card: Card) -> ImageSpec:
    """The spec that makes picture `index` of a job by itself: its own seed and prompts, `count` 1, its size spelled
    out, unless that follows from the picture it starts from."""
    width, height = (spec.width, spec.height) if spec.init_image is not None else picture_size(spec, card)
    return spec.model_copy(update={
        "seed": picture_seed(spec, index), "count": 1, "width": width, "height": height, "preview_every": 0,
        "resolved": spec.resolved[index:index + 1]})


def build_infotext(spec: ImageSpec, index: int, card: Card) -> str:
    """A1111's text: the prompt, `Negative prompt: …` where there is one, and one line of `Key: value` pairs.

    The prompts are those that were painted; what was asked, where it is something else, is the pair `Template`."""
    one = spec_of_picture(spec, index, card)
    painted = one.prompts_of(0)
    pairs = {
        "Steps": str(one.steps), "Sampler": one.sampler, "Schedule type": schedule_label(one.schedule),
        "CFG scale": repr(one.guidance).removesuffix(".0"), "Seed": str(one.seed),
        "Size": f"{one.width}x{one.height}" if one.width and one.height else "",
        "Denoising strength": f"{one.strength:g}" if one.init_image is not None else "",
        "Mask blur": f"{one.mask.blur:g}" if one.mask is not None else "",
        **_sampling_pairs(one), "Model hash": card.fingerprint, "Model": one.model,
        "Clip skip": str(one.clip_skip) if one.clip_skip > 1 else "",
        "Template": one.prompt if painted.prompt != one.prompt else "",
        "Negative Template": one.negative_prompt if painted.negative_prompt != one.negative_prompt else "",
        "Styles": ", ".join(one.styles), "Version": f"diptych {diptych.__version__}",
    }
    last = ", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items() if value)
    negative = [f"{NEGATIVE} {painted.negative_prompt}"] if painted.negative_prompt else []
    lines = [painted.prompt, *negative, last]
    # A NUL ends a PNG text value in many readers; the JSON keeps it.
    return "\n".join(lines).replace("\x00", "")


def _sampling_pairs(spec: ImageSpec) -> dict[str, str]:
    """What else was chosen about sampling, by A1111's names."""
    pairs = {"Eta DDIM" if key == "Eta" and spec.sampler == "DDIM" else key: getattr(spec, name)
             for key, name in _SAMPLING.items()}
    found = {key: value if isinstance(value, str) else repr(value).removesuffix(".0")
             for key, value in pairs.items() if value is not None and (key != "CFG Rescale" or value)}
    if spec.zero_terminal_snr is not None:
        found["Noise Schedule"] = "Zero Terminal SNR" if spec.zero_terminal_snr else "Default"
    return found


def build_text_chunks(
    spec: ImageSpec, index: int, card: Card, notes: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Text chunks of picture `index`: `parameters` and `diptych` (ASCII JSON). `notes`: what else the record says."""
    record = {
        "version": diptych.__version__,
        "spec": spec_of_picture(spec, index, card).model_dump(mode="json"),
        "model": {"id": card.id, "fingerprint": card.fingerprint},
        **(notes or {}),
    }
    return {PARAMETERS_KEY: build_infotext(spec, index, card), SPEC_KEY: json.dumps(record)}


def finish_text_chunks(spec: FinishSpec, card: Card, notes: Mapping[str, Any]) -> dict[str, str]:
    """Text chunk of a picture that was only finished: `diptych` alone (ASCII JSON)."""
    record = {"version": diptych.__version__, "spec": spec.model_dump(mode="json"),
              "model": {"id": card.id, "fingerprint": card.fingerprint}, **notes}
    return {SPEC_KEY: json.dumps(record)}


def parse_infotext(text: str) -> dict[str, Any]:
    """Fields of A1111's text: `prompt`, `negative_prompt`, those of `ImageSpec` where the text has them (numbers as
    numbers), `model_hash`, `version`; other pairs under their own names. Text without pairs is a prompt alone."""
    lines = text.rstrip("\n").split("\n")
    pairs = _pairs(lines[-1])
    if len(pairs) >= 3:
        lines.pop()
    else:
        pairs = {}
    start = next((i for i, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    result: dict[str, Any] = {
        "prompt": "\n".join(lines[:start]),
        "negative_prompt": "\n".join(lines[start:]).removeprefix(NEGATIVE).removeprefix(" "),
    }
    for key, value in pairs.items():
        if key == "Size" and (size := re.fullmatch(r"(\d+)x(\d+)", value)):
            result["width"], result["height"] = int(size[1]), int(size[2])
        elif key == "Noise Schedule" and value in ("Zero Terminal SNR", "Default"):
            result["zero_terminal_snr"] = value != "Default"
        else:
            result[_FIELDS.get(key, key)] = _number(_FIELDS.get(key, key), value)
    return result


def spec_from_text_chunks(chunks: dict[str, str]) -> ImageSpec:
    """The spec that painted a picture, from its PNG text chunks. Raises as `work_from_text_chunks`, and InvalidRequest
    for a picture that was not painted, but only finished."""
    found = work_from_text_chunks(chunks)
    if isinstance(found, FinishSpec):
        raise InvalidRequest("the picture was made of another one: its text says no prompt", param="file")
    return found


def work_from_text_chunks(chunks: dict[str, str]) -> JobSpec:
    """The spec that made a picture, from its PNG text chunks.

    Raises:
        InvalidRequest: there is neither a `diptych` nor a `parameters` text, or it describes no picture that can be
            made here.
    """
    if SPEC_KEY in chunks:
        try:
            return recorded_spec(json.loads(chunks[SPEC_KEY])["spec"])
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(
                f"the picture's {SPEC_KEY!r} text is damaged: {_first(error)}", param="file") from error
    if PARAMETERS_KEY not in chunks:
        raise InvalidRequest("the picture carries no text that says how it was made", param="file")
    found = parse_infotext(chunks[PARAMETERS_KEY])
    known = {key: value for key, value in found.items() if key in ImageSpec.model_fields}
    try:
        return ImageSpec.model_validate({"schedule": "automatic", **known})
    except ValidationError as error:
        raise InvalidRequest(
            f"the picture's {PARAMETERS_KEY!r} text cannot be used: {_first(error)}", param="file") from error


def _pairs(line: str) -> dict[str, str]:
    """`Key: value, …`; empty where the line is anything else."""
    pairs: dict[str, str] = {}
    position = 0
    while position < len(line):
        match = _PAIR.match(line, position)
        if match is None or match.end() == position:
            return {}
        pairs[match[1]] = _unquoted(match[2].strip())
        position = match.end()
    return pairs


def _quoted(value: str) -> str:
    """As it is, or in JSON's quotes where the value holds a separator."""
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:"\\\n\r]|^\s|\s$', value) else value


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"':
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _number(field: str, value: str) -> Any:
    try:
        if field in ("steps", "seed", "clip_skip"):
            return int(value)
        return float(value) if field in _NUMBERS else value
    except ValueError:
        return value


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
    return str(error) or type(error).__name__
