"""Training pictures: one subject on a plain background, with a caption that says what is to be seen.

Sources: pictures from the npm package `@lobehub/fluent-emoji-3d` (Microsoft Fluent Emoji, MIT), names and keywords
from `emojibase-data` (MIT). `fetch` takes both from the npm registry.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from subjects import BACKGROUNDS, HELD_OUT, HUES, LAYOUTS, RESERVE, TRAINED

PACKAGES = {"@lobehub/fluent-emoji-3d": "1.1.0", "emojibase-data": "17.0.0"}


@dataclasses.dataclass(frozen=True)
class Subject:
    """One emoji: `name` is the caption's noun, `aliases` are other words for it, `file` its RGBA picture."""

    name: str
    aliases: tuple[str, ...]
    file: Path


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a picture shows. `hue` is "" for the subject's own colours; `background` is a key of `BACKGROUNDS`."""

    subject: int
    hue: str
    background: str
    size: str
    position: str


def fetch(work: Path) -> Path:
    """Download and unpack the two npm packages under `work/npm`; does nothing where they are already there."""
    root = work / "npm"
    for name, version in PACKAGES.items():
        target = root / name.split("/")[-1]
        if (target / "package.json").exists():
            continue
        if shutil.which("npm") is None:
            raise SystemExit("npm is needed to fetch the pictures: install Node.js (Debian: apt-get install npm)")
        root.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=root, check=True,
                              capture_output=True, text=True)
        archive = root / done.stdout.strip().splitlines()[-1]
        with tarfile.open(archive) as tar:
            tar.extractall(root / "unpack", filter="data")
        (root / "unpack" / "package").rename(target)
        archive.unlink()
    return root


def _entries(root: Path) -> dict[str, tuple[Path, list[str]]]:
    assets = root / "fluent-emoji-3d" / "assets"
    found: dict[str, tuple[Path, list[str]]] = {}
    for entry in json.loads((root / "emojibase-data" / "en" / "data.json").read_text()):
        code = entry["hexcode"].lower()
        for stem in (code, code.replace("-fe0f", "")):
            if (assets / f"{stem}.webp").exists():
                found[entry["label"]] = (assets / f"{stem}.webp", entry.get("tags", []))
                break
    return found


def load_subjects(root: Path, names: dict[str, str]) -> list[Subject]:
    """Subjects in the order of `names`, with the keywords that belong to no other subject as aliases."""
    entries = _entries(root)
    missing = [label for label in names if label not in entries]
    if missing:
        raise SystemExit(f"no picture for: {', '.join(missing)}")
    words = {label: name or label for label, name in names.items()}
    taken = Counter(tag for label in names for tag in {*entries[label][1], words[label], *words[label].split()})
    reserved = {*BACKGROUNDS, *HUES, "small", "large", "left", "right", "top", "bottom"}
    return [
        Subject(word, tuple(tag for tag in entries[label][1]
                            if taken[tag] == 1 and tag not in reserved and tag.isalpha() and len(tag) > 2),
                entries[label][0])
        for label, word in words.items()
    ]


def held_out(root: Path) -> list[Subject]:
    return load_subjects(root, dict.fromkeys(HELD_OUT, ""))


def known(root: Path) -> list[Subject]:
    """Subjects of the text encoder: those of the UNet first."""
    return load_subjects(root, {**TRAINED, **RESERVE})


def trained(root: Path) -> list[Subject]:
    """Subjects of the UNet; their aliases are those that the text encoder has learned."""
    return known(root)[:len(TRAINED)]


def other_pictures(root: Path) -> list[Path]:
    """Every picture of the package that is not of a held-out subject and has no skin-tone variant (for the VAE)."""
    entries = _entries(root)
    return [file for label, (file, _) in entries.items() if label not in HELD_OUT]


def rgba(file: Path, edge: int) -> np.ndarray:
    """Premultiplied RGBA, float32 `[edge, edge, 4]` in 0..1."""
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    channels = [Image.fromarray(pixels[..., i]).resize((edge, edge), Image.Resampling.LANCZOS) for i in range(4)]
    return np.clip(np.stack([np.asarray(channel) for channel in channels], axis=-1), 0, 1)


def _hsv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    high, low = rgb.max(-1), rgb.min(-1)
    span = np.maximum(high - low, 1e-6)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    hue = np.where(high == r, ((g - b) / span) % 6, np.where(high == g, (b - r) / span + 2, (r - g) / span + 4)) * 60
    return hue, np.where(high > 0, (high - low) / np.maximum(high, 1e-6), 0), high


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    def channel(n: float) -> np.ndarray:
        k = (n + hue / 60) % 6
        return value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)

    return np.stack([channel(5), channel(3), channel(1)], axis=-1)


def dominant_hue(pixels: np.ndarray) -> tuple[float, float]:
    """Mean hue in degrees weighted by chroma, and the mean chroma (0..1) over the opaque part."""
    alpha = pixels[..., 3]
    hue, saturation, value = _hsv(pixels[..., :3] / np.maximum(alpha[..., None], 1e-3))
    weight = saturation * value * alpha
    angle = np.deg2rad(hue)
    mean = np.arctan2((np.sin(angle) * weight).sum(), (np.cos(angle) * weight).sum())
    return float(np.rad2deg(mean) % 360), float(weight.sum() / max(alpha.sum(), 1e-6))


def shift_hue(pixels: np.ndarray, target: float) -> np.ndarray:
    """Turn all hues so that the dominant one becomes `target` degrees; lightness and alpha stay."""
    alpha = pixels[..., 3:]
    hue, saturation, value = _hsv(pixels[..., :3] / np.maximum(alpha, 1e-3))
    own, _ = dominant_hue(pixels)
    # Pull hues towards the mean first: a two-coloured subject becomes one colour, which is what the caption says.
    offset = (hue - own + 180) % 360 - 180
    turned = (target + 0.25 * offset) % 360
    return np.concatenate([np.clip(_rgb(turned, saturation, value), 0, 1) * alpha, alpha], axis=-1)


def compose(pixels: np.ndarray, background: tuple[int, int, int], box: tuple[int, int, int], edge: int) -> np.ndarray:
    """Put premultiplied `pixels` (already of the box's edge) on a plain background; uint8 `[edge, edge, 3]`."""
    cells, left, top = box
    cell = edge // 8
    canvas = np.empty((edge, edge, 3), np.float32)
    canvas[:] = np.asarray(background, np.float32) / 255
    part = canvas[top * cell:(top + cells) * cell, left * cell:(left + cells) * cell]
    part *= 1 - pixels[..., 3:]
    part += pixels[..., :3]
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


class Renderer:
    """Draws scenes at one picture size; keeps the resized and hue-shifted subjects it has drawn."""

    def __init__(self, subjects: list[Subject], edge: int) -> None:
        self.subjects, self.edge = subjects, edge
        self._cache: dict[tuple[int, str, int], np.ndarray] = {}
        self.colourable = [dominant_hue(rgba(s.file, 64))[1] > 0.25 for s in subjects]

    def _pixels(self, subject: int, hue: str, cells: int) -> np.ndarray:
        key = (subject, hue, cells)
        if key not in self._cache:
            pixels = rgba(self.subjects[subject].file, cells * self.edge // 8)
            self._cache[key] = shift_hue(pixels, HUES[hue]) if hue else pixels
        return self._cache[key]

    def draw(self, scene: Scene) -> np.ndarray:
        """uint8 `[edge, edge, 3]`."""
        box = LAYOUTS[scene.size, scene.position]
        return compose(self._pixels(scene.subject, scene.hue, box[0]), BACKGROUNDS[scene.background], box, self.edge)

    def random_scene(self, rng: random.Random, subject: int | None = None) -> Scene:
        """Half of the scenes are plain ones (own colours, middle, normal size): they have to be right first."""
        index = rng.randrange(len(self.subjects)) if subject is None else subject
        hue = rng.choice(list(HUES)) if self.colourable[index] and rng.random() < 0.25 else ""
        size, position = ("", "") if rng.random() < 0.5 else rng.choice(list(LAYOUTS))
        return Scene(index, hue, rng.choice(list(BACKGROUNDS)), size, position)


def article(words: str) -> str:
    return ("an " if words[0].lower() in "aeio" else "a ") + words


def caption(scene: Scene, subjects: list[Subject], rng: random.Random, alias: float = 0.0) -> str:
    """One of several wordings for a scene; a white background is left unsaid half of the time.

    `alias` is the probability of using another word for the subject than its name."""
    subject = subjects[scene.subject]
    noun = rng.choice(subject.aliases) if subject.aliases and rng.random() < alias else subject.name
    words = " ".join(part for part in (scene.size, scene.hue, noun) if part)
    if rng.random() < 0.7 and not noun.endswith(("grapes", "glasses", "cherries", "fries")):
        words = article(words)
    if scene.position:
        words += rng.choice((f", {scene.position}", f" on the {scene.position}", f" at the {scene.position}"))
    if scene.background != "white" or rng.random() < 0.5:
        words += rng.choice((f" on a {scene.background} background", f", {scene.background} background",
                             f" with a {scene.background} background"))
    return words
