"""The files that a spec names: whether they are there when a job is accepted, and where when it runs."""

from __future__ import annotations

from typing import cast

from diptych.core.cards import Card, PartKind
from diptych.core.errors import InvalidRequest, NotFound
from diptych.core.image_options import Reference
from diptych.core.specs import JobSpec
from diptych.library import Library
from diptych.preprocess.run import FOLDER, missing
from diptych.settings import Settings
from diptych.store.inputs import InputStore


class References:
    """Looks things up in the library and among the uploaded pictures. Blocking."""

    def __init__(self, settings: Settings, library: Library) -> None:
        self._library = library
        self._inputs = InputStore(settings.inputs_dir)
        self._preprocessors = settings.models_dir / FOLDER

    def found(self, spec: JobSpec, card: Card) -> tuple[dict[str, str], dict[str, Card]]:
        """Absolute paths by `Reference.key`, and the cards of those that are models, by id.

        Args:
            card: of the spec's model, which parts have to fit.

        Raises:
            NotFound: something is not there; names the field and what there is.
            InvalidRequest: it is made for another family of models.
        """
        files: dict[str, str] = {}
        models: dict[str, Card] = {}
        for reference in spec.references():
            if reference.kind == "input":
                files[reference.key] = str(self._inputs.path(reference.id, param=reference.param).resolve())
            elif reference.kind == "model":
                models[reference.id] = self._model(reference)
            elif reference.kind == "preprocessor":
                files[reference.key] = self._preprocessor(reference)
            else:
                files[reference.key] = self._part(reference, card)
        return files, models

    def _model(self, reference: Reference) -> Card:
        try:
            card = self._library.get(reference.id)
        except NotFound as error:
            error.param = reference.param
            raise
        if card.panel != "image":
            raise InvalidRequest(
                f"{reference.param} is {reference.id!r}, which makes text, not pictures", param=reference.param)
        return card

    def _preprocessor(self, reference: Reference) -> str:
        path = self._preprocessors / reference.id
        if not path.is_file():
            raise missing(reference.id, reference.param)
        return str(path.resolve())

    def _part(self, reference: Reference, card: Card) -> str:
        try:
            part = self._library.part(cast(PartKind, reference.kind), reference.id)
        except NotFound as error:
            error.param = reference.param
            raise
        check_fits(part.family, card, reference)
        if part.text_width is not None and card.text_width is not None and part.text_width != card.text_width:
            raise InvalidRequest(
                f"{reference.param} is {reference.id!r}, made for models whose text is {part.text_width} values wide "
                f"({part.family}); that of {card.id!r} is {card.text_width} wide", param=reference.param,
                code="family_mismatch")
        return part.path


def check_fits(family: str | None, card: Card, reference: Reference) -> None:
    """Raises InvalidRequest when a part is made for another family than the model's."""
    own = family_of(card)
    if family is not None and own is not None and family != own:
        raise InvalidRequest(
            f"{reference.param} is {reference.id!r}, made for models of family {family}; {card.id!r} is of family "
            f"{own}", param=reference.param, code="family_mismatch")


def family_of(card: Card) -> str | None:
    """Of a model, as parts have it: Stable Diffusion 2 has an engine in common with 1, but wider text contexts."""
    if card.family == "sd1" and card.text_width == 1024:
        return "sd2"
    return card.family if card.family in ("sd1", "sdxl") else None
