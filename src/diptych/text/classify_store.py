"""Calibrated classifiers, one JSON file each in the data folder. Every caller has names of its own."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from diptych.core.errors import NotFound
from diptych.core.paths import inside
from diptych.text.calibrate import Quality, Scale
from diptych.text.classify import Question


class Classifier(BaseModel):
    """`before` and `after` the fit, on `held_out` texts that the scale was not fitted to; `fitted` ones it was."""

    model_config = ConfigDict(frozen=True)

    name: str
    model: str
    question: Question
    scale: Scale
    fitted: int
    held_out: int
    before: Quality
    after: Quality
    created_at: datetime


class ClassifierStore:
    """Blocks. Raises NotFound for a name that is not there; InvalidRequest for one that is no file name."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / "classifiers"

    def save(self, caller: str, classifier: Classifier) -> None:
        """Takes the place of one of the same name, at once."""
        path = self._path(caller, classifier.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_name(f".{secrets.token_hex(8)}")
        try:
            work.write_text(classifier.model_dump_json(), encoding="utf-8")
            work.replace(path)
        finally:
            work.unlink(missing_ok=True)

    def get(self, caller: str, name: str) -> Classifier:
        try:
            return Classifier.model_validate_json(self._path(caller, name).read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            raise NotFound(f"there is no classifier {name[:200]!a}", param="classifier") from None

    def names(self, caller: str) -> list[str]:
        return sorted(path.stem for path in self._folder(caller).glob("[!.]*.json"))

    def delete(self, caller: str, name: str) -> None:
        self.get(caller, name)
        self._path(caller, name).unlink(missing_ok=True)

    def _folder(self, caller: str) -> Path:
        return self._root / hashlib.sha256(caller.encode()).hexdigest()[:24]

    def _path(self, caller: str, name: str) -> Path:
        return inside(self._folder(caller), f"{name}.json", param="name")
