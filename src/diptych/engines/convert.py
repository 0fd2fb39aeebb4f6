"""Pickled weights to safetensors, in a process of its own: `python -m diptych.engines.convert FILE_OR_FOLDER`.

Only tensors and plain containers are unpickled (torch's `weights_only`); a file that holds anything else is refused.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
NAMES = {"pytorch_model": "model"}
"""Stems that are called otherwise as safetensors, in the folders of diffusers and transformers."""


class NotConverted(Exception):
    """Told in one line."""


def main(arguments: list[str] | None = None) -> int:
    """Convert; prints each file made. Exit status 0: done, 1: not done, with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="diptych models convert")
    parser.add_argument("path", type=Path)
    parser.add_argument("--force", action="store_true")
    given = parser.parse_args(arguments)
    try:
        for source in sources(given.path):
            target, count = convert(source, force=given.force)
            print(f"{target}: {count} tensors", flush=True)
    except NotConverted as error:
        print(f"diptych: {error}", file=sys.stderr)
        return 1
    return 0


def sources(path: Path) -> list[Path]:
    """The file itself, or all pickled weights of a model folder and its parts that have no safetensors yet."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise NotConverted(f"there is no file or folder {path}")
    found = [file for folder in (path, *sorted(item for item in path.iterdir() if item.is_dir()))
             for file in sorted(folder.iterdir())
             if file.suffix.lower() in PICKLES and file.is_file() and not target_of(file).exists()]
    if not found:
        raise NotConverted(f"{path} holds no pickled weights that are not converted yet ({', '.join(PICKLES)})")
    return found


def target_of(source: Path) -> Path:
    """Beside the source, under the name that its safetensors have."""
    return source.with_name(f"{NAMES.get(source.stem, source.stem)}.safetensors")


def convert(source: Path, *, force: bool = False) -> tuple[Path, int]:
    """Write the tensors of `source` beside it; the file and how many they are. Raises NotConverted."""
    target = target_of(source)
    if source.suffix.lower() not in PICKLES:
        raise NotConverted(f"{source} does not end in one of {', '.join(PICKLES)}")
    if target.exists() and not force:
        raise NotConverted(f"{target} is there already; --force writes it anew")
    try:
        import torch
        from safetensors.torch import save_file
    except ImportError as error:
        raise NotConverted(f"{error.name} is missing; install what image models need: pip install diptych[image]"
                           ) from None
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise NotConverted(f"{source} holds more than weights, or is damaged: reading it could run code, so it is not "
                           "converted; get the model as safetensors") from None
    except Exception as error:  # damaged archives raise nearly everything
        raise NotConverted(f"{source} cannot be read: {type(error).__name__}") from None
    tensors = tensors_of(loaded, torch.Tensor)
    if not tensors:
        raise NotConverted(f"{source} holds no tensors by name")
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        # Copies: two names of one memory are not allowed in the format.
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, draft,
                  metadata={"format": "pt"})
        draft.replace(target)
    except OSError as error:
        raise NotConverted(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        draft.unlink(missing_ok=True)
    return target, len(tensors)


def tensors_of(loaded: Any, kind: type) -> dict[str, Any]:
    """The named tensors of a checkpoint: its `state_dict` where it has one, else those at its top; the vectors of an
    embedding of A1111."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get("string_to_param"), Mapping):
        loaded = {"emb_params": next(iter(loaded["string_to_param"].values()), None)}
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        return {}
    return {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, kind)}


if __name__ == "__main__":
    sys.exit(main())
