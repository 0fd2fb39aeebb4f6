"""Names of samplers and noise schedules as A1111's users know them. What they are made of lives in the engine."""

from __future__ import annotations

from diptych.core.errors import InvalidRequest

SAMPLERS: tuple[str, ...] = (
    "DDPM", "DDIM", "Euler", "Euler a", "Heun", "LMS", "DPM++ 2M", "DPM++ SDE", "UniPC", "LCM",
)
SCHEDULES: tuple[str, ...] = ("normal", "karras")

#: Samplers whose definition has no free choice of sigmas: a schedule other than `normal` is refused.
NORMAL_ONLY: frozenset[str] = frozenset({"DDPM", "DDIM", "LCM"})

_FOLDED = {name.casefold(): name for name in SAMPLERS}


def parse_sampler(name: str, schedule: str = "automatic") -> tuple[str, str]:
    """Canonical `(sampler, schedule)` from what a client sent.

    Old clients put both into one string ("DPM++ 2M Karras"); "automatic" means the sampler's usual schedule, normal.

    Raises:
        InvalidRequest: unknown names, or a schedule that the sampler does not have.
    """
    wanted = schedule.casefold()
    folded = name.strip().casefold()
    for suffix in SCHEDULES:
        if folded not in _FOLDED and folded.endswith(" " + suffix):
            folded = folded[: -len(suffix) - 1].rstrip()
            wanted = suffix if wanted == "automatic" else wanted
    if folded not in _FOLDED:
        raise InvalidRequest(f"sampler {name!r} is unknown; known: {', '.join(SAMPLERS)}", param="sampler")
    if wanted == "automatic":
        wanted = "normal"
    if wanted not in SCHEDULES:
        raise InvalidRequest(
            f"schedule {schedule!r} is unknown; known: automatic, {', '.join(SCHEDULES)}", param="schedule")
    sampler = _FOLDED[folded]
    if sampler in NORMAL_ONLY and wanted != "normal":
        raise InvalidRequest(f"sampler {sampler!r} has no schedule {wanted!r}; use normal", param="schedule")
    return sampler, wanted
