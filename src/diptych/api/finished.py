"""What the operator asks of every picture, and whether what a spec asks for can be done here."""

from __future__ import annotations

from diptych.core.errors import InvalidRequest, Unavailable
from diptych.core.finish import Detail, NsfwAction, stricter
from diptych.core.nudity import PACKAGES, installed
from diptych.core.specs import JobSpec

_MISSING = (f"takes the packages {' and '.join(PACKAGES)}, which are not installed here; pip install "
            "'diptych[moderation]'")


def held_to(spec: JobSpec, least: NsfwAction) -> JobSpec:
    """The spec as strict as the operator wants it (`least`), and without previews where pictures are checked: they
    would show what is not to be seen.

    Raises:
        InvalidRequest: it asks for a check or for faces, and the packages for that are not installed.
        Unavailable: the operator does, and they are not.
    """
    action = stricter(spec.nsfw, least)
    if action != "off" and not installed():
        if spec.nsfw == "off":
            raise Unavailable(f"the setting nsfw is {least!r}, which {_MISSING}", code="not_installed")
        raise InvalidRequest(f"nsfw is {spec.nsfw!r}, which {_MISSING}", param="nsfw", code="not_installed")
    for place, stage in enumerate(spec.finish):
        if isinstance(stage, Detail) and stage.detect is not None and not installed():
            raise InvalidRequest(f"finish[{place}].detect is {stage.detect!r}, which {_MISSING}",
                                 param=f"finish[{place}].detect", code="not_installed")
    if action == "off":
        return spec
    changes = {"nsfw": action, **({"preview_every": 0} if "preview_every" in type(spec).model_fields else {})}
    return spec.model_copy(update=changes)
