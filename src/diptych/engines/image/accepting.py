"""What every image engine does with a request before any model is touched."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

import torch

from diptych.core.errors import InvalidRequest, Unavailable
from diptych.core.protocol import RunRequest
from diptych.core.specs import ImageSpec

DTYPES = ("float32", "float16", "bfloat16")


def picture_spec(request: RunRequest) -> ImageSpec:
    """The spec of a request for pictures; raises InvalidRequest for any other."""
    spec = request.spec
    if not isinstance(spec, ImageSpec):
        raise InvalidRequest(f"kind is {spec.kind!r}, but this runner makes pictures", param="kind")
    if request.output_dir is None:
        raise InvalidRequest("output_dir is missing: a picture needs a folder", param="output_dir")
    if wrong := [index for index in request.skip if not 0 <= index < spec.count]:
        raise InvalidRequest(f"skip has {wrong[0]}, but count is {spec.count}", param="skip")
    return spec


def made_folder(request: RunRequest) -> Path:
    """The job's folder, which is there now; raises Unavailable."""
    folder = Path(request.output_dir or "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "write_failed"
        raise Unavailable(f"the job's folder cannot be made: {error.strerror}", code=code) from error
    return folder


def device_of(options: Mapping[str, object]) -> torch.device:
    """Option `device`, "cpu" where there is none."""
    return torch.device(str(options.get("device", "cpu")).replace("rocm", "cuda"))  # torch calls AMD's devices so, too


def dtype_of(options: Mapping[str, object]) -> torch.dtype:
    """Option `dtype`, float32 where there is none; raises InvalidRequest."""
    name = options.get("dtype", DTYPES[0])
    if name not in DTYPES:
        raise InvalidRequest(f"option dtype is {name!r}, not one of {', '.join(DTYPES)}", param="dtype")
    found: torch.dtype = getattr(torch, str(name))
    return found
