"""Parts of a model in a folder of diffusers' layout: weights from safetensors only, and whole ones only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from diptych.core.errors import InvalidRequest


def check_layout(folder: Path, expected: Mapping[str, Sequence[str]], others: Sequence[str] = ()) -> dict[str, str]:
    """Names of the classes of the parts in `expected`, as model_index.json has them.

    Args:
        expected: classes that are served, by part.
        others: further parts that have to be there, of any class.

    Raises:
        InvalidRequest: a part is missing or of another class.
    """
    index = read_json(folder / "model_index.json")
    missing = [name for name in (*expected, *others) if name not in index or not (folder / name).is_dir()]
    if missing:
        raise InvalidRequest(f"model folder {folder.name!r} has no {', '.join(missing)}", param="model")
    found = {part: index[part][1] if isinstance(index[part], list) and len(index[part]) == 2 else None
             for part in expected}
    for part, names in expected.items():
        if found[part] not in names:
            raise InvalidRequest(
                f"{part} of model {folder.name!r} is {found[part]!r}; supported: {', '.join(names)}", param="model")
    return {part: str(name) for part, name in found.items()}


def load_weights(part: Any, folder: Path, **options: Any) -> Any:
    """A part with all its weights, from safetensors and nothing else; the half precision copy if it is alone."""
    files = [file.name for file in folder.iterdir() if file.name.endswith(".safetensors")]
    if not files:
        raise InvalidRequest(
            f"{folder.name} of model {folder.parent.name!r} has no safetensors weights", param="model")
    if all(".fp16" in name for name in files):
        options["variant"] = "fp16"
    options |= {"use_safetensors": True, "local_files_only": True, "low_cpu_mem_usage": True}
    module, info = part.from_pretrained(folder, output_loading_info=True, **options)
    # The libraries fill what a file lacks with random numbers and a warning.
    if info["missing_keys"]:
        raise ValueError(f"{folder.name} lacks the weights {', '.join(sorted(info['missing_keys'])[:3])}")
    return module


def load_tokenizer(folder: Path, vocabulary: int) -> Any:
    """CLIP's tokenizer; the library makes an empty one of a folder without a vocabulary."""
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise ValueError(f"{folder.name} has neither tokenizer.json nor vocab.json")
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) > vocabulary:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the text encoder {vocabulary}")
    return tokenizer


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file; raises InvalidRequest."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path.parent.name}/{path.name} cannot be read", param="model") from error
    if not isinstance(found, dict):
        raise InvalidRequest(f"{path.parent.name}/{path.name} is not a JSON object", param="model")
    return found
