"""Checks of the installed packages: there, importable, which flavour of torch, how many threads they use."""

from __future__ import annotations

import json
import os
import re
from importlib.metadata import PackageNotFoundError, distribution, requires, version

from diptych.cli.checks import Finding, run_python

EXTRAS = ("text", "image")
NEEDED_BY = {"text": "answers", "image": "pictures"}


def packages() -> list[Finding]:
    """One finding for each extra: its packages with their versions, or those that are missing or do not import."""
    return [_extra(extra) for extra in EXTRAS]


def _extra(extra: str) -> Finding:
    name = f"packages for {NEEDED_BY[extra]}"
    wanted = extra_packages(extra)
    missing = [package for package in wanted if _version(package) is None]
    install = f"install them with: pip install 'diptych[{extra}]' (in a checkout: make setup)"
    if missing:
        return Finding(name, "problem", f"not installed: {', '.join(missing)}", install)
    modules = [package.replace("-", "_") for package in wanted]
    works, output = run_python(f"import {', '.join(modules)}", timeout=120)
    if not works:
        return Finding(name, "problem", f"installed, but not importable: {output}", install)
    return Finding(name, "ok", ", ".join(f"{package} {_version(package)}" for package in wanted))


def extra_packages(extra: str) -> list[str]:
    """Names of the packages that an extra of this installation asks for."""
    try:
        found = requires("diptych") or []
    except PackageNotFoundError:
        return []
    ours = [text for text in found if re.search(rf"""extra\s*==\s*['"]{extra}['"]""", text)]
    return sorted(match[0] for text in ours if (match := re.match(r"[\w.-]+", text)) and match[0] != "diptych")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def torch_flavour() -> Finding:
    """Which devices this torch can compute on, and where it came from."""
    if _version("torch") is None:
        return Finding("torch", "problem", "not installed", "install it with: pip install 'diptych[image]'")
    code = ("import json, torch; print(json.dumps({'version': torch.__version__, 'cuda': torch.version.cuda,"
            "'hip': torch.version.hip, 'available': torch.cuda.is_available(),"
            "'mps': torch.backends.mps.is_available()}))")
    works, output = run_python(code, timeout=120)
    if not works:
        return Finding("torch", "problem", f"does not import: {output}", "install it again in a new environment")
    found = json.loads(output)
    flavour = (f"CUDA {found['cuda']}" if found["cuda"] else f"ROCm {found['hip']}" if found["hip"]
               else "Metal" if found["mps"] else "CPU only")
    seen = f"{found['version']}, {flavour}, installed by {_installer('torch')}"
    if (found["cuda"] or found["hip"]) and not found["available"]:
        return Finding("torch", "warn", f"{seen}, but no GPU can be used",
                       "pictures are made on the CPU; for the GPU check its driver (nvidia-smi, rocminfo)")
    return Finding("torch", "ok", seen)


def _installer(package: str) -> str:
    return (distribution(package).read_text("INSTALLER") or "an unknown program").strip()


def threads() -> Finding:
    """Settings of the numeric libraries' threads that disturb Diptych's own division of the cores."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND",
             "KMP_AFFINITY", "GOMP_CPU_AFFINITY")
    seen = {name: os.environ[name] for name in names if name in os.environ}
    shown = ", ".join(f"{name}={value}" for name, value in seen.items()) or "no thread settings in the environment"
    if seen.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE" or {"KMP_AFFINITY", "GOMP_CPU_AFFINITY"} & seen.keys():
        return Finding("threads", "warn", shown, "unset these: waiting or pinned threads of one model slow down the "
                       "other many times over")
    return Finding("threads", "ok", shown)
