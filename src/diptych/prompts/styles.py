"""Styles: named templates that are put around a prompt, in `styles.json` or `styles.csv` of the data folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.errors import InvalidRequest

PLACE = "{prompt}"
FILES = ("styles.json", "styles.csv")
MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Style:
    """`{prompt}` in a template is where the prompt goes; a template without it follows the prompt."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


def read_styles(folder: Path) -> dict[str, Style]:
    """The styles of a data folder by name; those of `styles.json` win. Blocking.

    JSON: a list of `{"name", "prompt", "negative_prompt"}`, or an object of these by name. CSV: these columns.

    Raises:
        InvalidRequest: a file cannot be read, and why.
    """
    styles: dict[str, Style] = {}
    for name in reversed(FILES):
        path = folder / name
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
            if len(raw) > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES} bytes")
            text = raw.decode("utf-8-sig")
            styles |= {style.name: style for style in (_of_csv(text) if name.endswith(".csv") else _of_json(text))}
        except FileNotFoundError:
            continue
        except (OSError, ValueError, csv.Error, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error) or type(error).__name__
            raise InvalidRequest(f"styles cannot be used: {name} in the data folder cannot be read: {reason}",
                                 param="styles", code="styles_unreadable") from None
    return styles


def styled(prompt: str, negative_prompt: str, names: Sequence[str], styles: dict[str, Style]) -> tuple[str, str]:
    """`(prompt, negative prompt)` with the styles around them, the first one innermost.

    Raises:
        InvalidRequest: an unknown style.
    """
    for name in names:
        if name not in styles:
            known = ", ".join(list(styles)[:20]) or "there are none; they are in styles.json of the data folder"
            raise InvalidRequest(f"styles has {name[:100]!r}, which is unknown; known: {known}", param="styles",
                                 code="unknown_style")
        prompt = _around(prompt, styles[name].prompt)
        negative_prompt = _around(negative_prompt, styles[name].negative_prompt)
    return prompt, negative_prompt


def _around(prompt: str, template: str) -> str:
    if PLACE in template:
        return template.replace(PLACE, prompt)
    return ", ".join(text for text in (prompt.strip(), template.strip()) if text) if template.strip() else prompt


def _of_csv(text: str) -> list[Style]:
    rows = csv.DictReader(io.StringIO(text, newline=""), restval="")
    if "name" not in (rows.fieldnames or ()):
        raise ValueError("its first line names no column 'name'")
    return [_style(dict(row)) for row in rows if row["name"]]


def _of_json(text: str) -> list[Style]:
    found = json.loads(text)
    if isinstance(found, dict):
        found = [{"name": name, **(values if isinstance(values, dict) else {"prompt": values})}
                 for name, values in found.items()]
    if not isinstance(found, list):
        raise ValueError("it is neither a list nor an object")
    return [_style(values) for values in found]


def _style(values: Any) -> Style:
    if not isinstance(values, dict):
        raise ValueError(f"a style is {str(values)[:50]!r}, not an object with name, prompt and negative_prompt")
    texts = {key: values.get(key) or "" for key in ("name", "prompt", "negative_prompt")}
    for key, value in texts.items():
        if not isinstance(value, str) or (key == "name" and not value):
            raise ValueError(f"{key} of a style is {str(value)[:50]!r}, not text")
    return Style(**texts)
