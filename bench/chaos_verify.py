"""Holds the records in the end against the book that `chaos_load.py` kept, and pictures against undisturbed ones."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

import harness
from chaos_load import Ledger, stamp

MOST_APART = 2
"""Of 255: rounding differs where pictures are denoised in one batch with others."""
Request = tuple[str, int, int]
"""Prompt, seed of the picture, steps."""


def verdict(served: harness.Gateway, ledger: Ledger, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Counts of what was accepted, lost, doubled and altered, and a line for each fault."""
    folder = served.data_dir / "artifacts"
    lost = _lost(ledger, records, folder)
    doubled = _doubled(ledger, records, folder)
    with httpx.Client(base_url=served.url, timeout=600) as client:
        altered = _altered(client, records, folder)
    return {
        "accepted": len(ledger.accepted), "unheard": len(records.keys() - ledger.accepted.keys()),
        "pictures": sum(len(job["artifacts"]) for job in records.values()), "lost": len(lost),
        "doubled": len(doubled), "altered": len(altered), "chats": ledger.chats, "chats_broken": ledger.broken,
        "attempts_most": max((job["attempts"] for job in records.values()), default=0),
        "faults": lost + doubled + altered + ledger.wrong_chats}


def _lost(ledger: Ledger, records: dict[str, dict[str, Any]], folder: Path) -> list[str]:
    lost = [f"{id}: accepted, and unknown in the end" for id in ledger.accepted.keys() - records.keys()]
    for id, job in records.items():
        indices = {item["index"] for item in job["artifacts"]}
        files = {index for index in indices if (folder / id / f"{index:03d}.png").is_file()}
        if job["state"] != "succeeded":
            lost.append(f"{id}: {job['state']}: {job['error']}")
        elif files != set(range(job["spec"]["count"])):
            lost.append(f"{id}: has pictures {sorted(files)} of {job['spec']['count']}")
    return lost


def _doubled(ledger: Ledger, records: dict[str, dict[str, Any]], folder: Path) -> list[str]:
    doubled = list(ledger.again)
    for id, job in records.items():
        counts = Counter(item["index"] for item in job["artifacts"])
        doubled += [f"{id}: picture {index} is there {count} times" for index, count in counts.items() if count > 1]
    for (id, index), first in ledger.stamps.items():
        if first != stamp(folder / id / f"{index:03d}.png"):
            doubled.append(f"{id}: picture {index} was written again after it had been told")
    return doubled


def _altered(client: httpx.Client, records: dict[str, dict[str, Any]], folder: Path) -> list[str]:
    """Every picture against one that is made now, alone and undisturbed."""
    undisturbed: dict[Request, np.ndarray] = {}
    altered = []
    for id, job in records.items():
        spec = job["spec"]
        for item in job["artifacts"]:
            key = (spec["prompt"], item["seed"], spec["steps"])
            if key not in undisturbed:
                undisturbed[key] = _alone(client, key)
            picture = _pixels((folder / id / f"{item['index']:03d}.png").read_bytes())
            apart = int(abs(picture - undisturbed[key]).max())
            if apart > MOST_APART:
                altered.append(f"{id}: picture {item['index']} is {apart} of 255 apart from the undisturbed one")
    return altered


def _alone(client: httpx.Client, key: Request) -> np.ndarray:
    prompt, seed, steps = key
    job = harness.finish(client, harness.submit(client, prompt=prompt, seed=seed, steps=steps))
    return _pixels(client.get(job["artifacts"][0]["url"]).content)


def _pixels(raw: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"), dtype=int)
