"""Model files tensor by tensor: a checkpoint in one file, or a folder in the layout of diffusers. No more than one
tensor of each model is in memory at a time."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

INDEX = "model_index.json"
PARTS = ("unet", "text", "vae")
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64",
          torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL", torch.int16: "I16", torch.int8: "I8"}
_STARTS = (("model.diffusion_model.", "unet"), ("first_stage_model.", "vae"), ("cond_stage_model.", "text"),
           ("conditioner.", "text"), ("unet/", "unet"), ("vae/", "vae"), ("text_encoder", "text"))


class NotMerged(Exception):
    """Told in one line."""


class Model:
    """The tensors of a model, by key; in folders "unet/down_blocks…". Use as a context manager.

    Raises:
        NotMerged: it is no such model, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.is_dir()
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self.metadata: dict[str, str] = {}
        try:
            for file in self.weight_files():
                self._open(file)
        except (OSError, SafetensorError) as error:
            raise NotMerged(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
        if not self._files:
            raise NotMerged(f"{path} is neither a safetensors checkpoint nor a folder of diffusers with safetensors")

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def weight_files(self) -> list[Path]:
        """All files with weights; of a part in full and in half precision the full one."""
        if not self.folder:
            return [self.path] if self.path.suffix == ".safetensors" else []
        if not (self.path / INDEX).is_file():
            return []
        found = sorted(self.path.glob("*/*.safetensors"))
        plain = {file.parent for file in found if not file.name.endswith(".fp16.safetensors")}
        return [file for file in found if file.parent.name != "safety_checker" and not (
            file.name.endswith(".fp16.safetensors") and file.parent in plain)]

    def _open(self, file: Path) -> None:
        opened = self._stack.enter_context(safe_open(file, "pt"))
        self.metadata |= opened.metadata() or {}
        start = f"{file.parent.name}/" if self.folder else ""
        self._files |= {f"{start}{key}": (opened, key, file) for key in opened.keys()}  # noqa: SIM118

    def keys(self) -> Iterable[str]:
        return self._files

    def shape(self, key: str) -> tuple[int, ...] | None:
        if key not in self._files:
            return None
        opened, name, _ = self._files[key]
        return tuple(opened.get_slice(name).get_shape())

    def tensor(self, key: str) -> torch.Tensor:
        opened, name, _ = self._files[key]
        found: torch.Tensor = opened.get_tensor(name)
        return found

    def file_of(self, key: str) -> Path:
        """Where a key is, relative to a folder's own path."""
        file: Path = self._files[key][2]
        return file.relative_to(self.path) if self.folder else Path(file.name)


def part_of(key: str) -> str:
    """"unet", "text" or "vae"; others belong to the UNet's training and count with it."""
    return next((part for start, part in _STARTS if key.startswith(start)), "unet")


def write_like(
    model: Model, target: Path, made: Callable[[str], torch.Tensor], dtype: torch.dtype | None,
    metadata: dict[str, str],
) -> None:
    """Write a model with the keys of `model` at `target`, tensor by tensor: the result of `made` for each key.

    Args:
        dtype: of floating point tensors; None: as in `model`.

    Raises:
        NotMerged: it cannot be written.
    """
    draft = target.with_name(f".{target.name}.tmp")
    try:
        if model.folder:
            shutil.rmtree(draft, ignore_errors=True)
            _copy_rest(model, draft)
            for file in sorted({model.file_of(key) for key in model.keys()}):  # noqa: SIM118
                keys = [key for key in model.keys() if model.file_of(key) == file]  # noqa: SIM118
                write_tensors(draft / file, {key.partition("/")[2]: key for key in keys}, model, made, dtype, {})
            (draft / "merge.json").write_text(json.dumps(metadata, indent=1), "utf-8")
        else:
            write_tensors(draft, {key: key for key in model.keys()}, model, made, dtype, metadata)  # noqa: SIM118
        draft.replace(target)
    except OSError as error:
        raise NotMerged(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def _copy_rest(model: Model, target: Path) -> None:
    """All files of a folder but the weights."""
    endings = (".safetensors", ".bin", ".ckpt", ".pt", ".msgpack", ".onnx")
    for file in sorted(model.path.rglob("*")):
        if file.is_file() and not file.name.endswith(endings) and len(file.relative_to(model.path).parts) <= 2:
            place = target / file.relative_to(model.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)


def write_tensors(
    path: Path, keys: dict[str, str], model: Model, made: Callable[[str], torch.Tensor], dtype: torch.dtype | None,
    metadata: dict[str, str],
) -> None:
    """A safetensors file (its header first, as the format says), one tensor in memory at a time. `keys`: the model's
    key by the name in the file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    types: dict[str, torch.dtype] = {}
    offset = 0
    for name, key in keys.items():
        before = model.tensor(key).dtype
        types[name] = dtype if dtype is not None and before.is_floating_point else before
        shape = model.shape(key) or ()
        size = types[name].itemsize
        for side in shape:
            size *= side
        header[name] = {"dtype": _NAMES[types[name]], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for name, key in keys.items():
            tensor = made(key).to(types[name]).contiguous()
            file.write(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
