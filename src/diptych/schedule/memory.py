"""The memory plan of one gateway: what models need, what is decided, and what was measured. No processes here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from diptych.core.cards import Card
from diptych.core.errors import InvalidRequest
from diptych.core.protocol import Health
from diptych.schedule.arbiter import Plan, Request, Resident, plan
from diptych.schedule.estimate import Estimator, loaded_label, pass_label
from diptych.schedule.held import Held
from diptych.schedule.traces import TraceWriter
from diptych.settings import Settings

MIB = 2**20
Figure = tuple[str, str, float]
"""A model's fingerprint, a label and bytes."""
Size = tuple[int, int]
"""Width and height of a picture in pixels."""


class MemoryPlan:
    """Decides with the arbiter. `budget` in bytes by device."""

    def __init__(self, settings: Settings, budget: Mapping[str, int]) -> None:
        self.budget = dict(budget)
        self.measured: dict[tuple[str, str], float] = {}
        self.estimator = Estimator(settings, self.measured)
        self._trace = TraceWriter(settings.plan_trace) if settings.plan_trace is not None else None

    def request(self, card: Card, size: Size | None = None) -> Request:
        return Request(model=card.id, placements=self.estimator.placements(card, size))

    def decide(self, card: Card, residents: Iterable[Resident], size: Size | None = None) -> Plan:
        """The arbiter's plan for `card`, or for a picture of `size` by it.

        Raises:
            InvalidRequest: it can never fit; with the numbers.
        """
        request, held = self.request(card, size), list(residents)
        made = plan(request, held, self.budget)
        if self._trace is not None:
            self._trace.write(request, held, self.budget, made)
        if made.mode == "refuse":
            raise self._refusal(card, made, size)
        return made

    def check(self, card: Card, size: Size | None = None, residents: Iterable[Resident] = ()) -> None:
        """Raises InvalidRequest, with the numbers, when it can never fit beside those of `residents` that are
        pinned."""
        others = [one for one in residents if one.model != card.id]
        made = plan(self.request(card, size), others, self.budget)
        if made.mode == "refuse":
            raise self._refusal(card, made, size)

    def learn(self, held: Held, health: Health) -> list[Figure]:
        """Take in what a runner measured: its leases are corrected, the next ones begin with it. The figures that are
        new."""
        key, device = held.card.fingerprint or held.card.id, held.device
        used = max(health.bytes_resident, health.bytes_peak)
        held.loaded_bytes = held.loaded_bytes or used
        found: dict[str, float] = {}
        if held.card.panel == "image":
            if device in ("cpu", "mps"):  # of another device's memory a process knows only its passes
                found[loaded_label(device)] = float(held.loaded_bytes)
            found |= {pass_label(device, what): float(size) for what, size in health.passes.items()}
        else:
            found[loaded_label(device, self.estimator.text_label(held.card))] = float(used)
        fresh = [(key, label, value) for label, value in found.items() if held.figures.get(label) != value]
        held.figures |= found
        for _, label, value in fresh:
            self.measured[key, label] = value
        if fresh:
            self._correct(held)
        return fresh

    def _correct(self, held: Held) -> None:
        """The leases of a runner, as its placement would have them now."""
        for placement in self.estimator.placements(held.card, held.size):
            if placement.options == held.placement.options:
                held.correct(placement.leases)

    def _refusal(self, card: Card, made: Plan, size: Size | None) -> InvalidRequest:
        budget = self.budget.get(made.device or "cpu", 0)
        what = f"model {card.id!r}" + (f" with pictures of {size[0]}x{size[1]} pixels" if size else "")
        pinned = made.short - (made.need - budget)  # short is what need and pinned ones are over the budget
        held = f", of which {pinned / MIB:.0f} MiB belong to pinned models" if pinned > 0 else ""
        setting = "memory_bytes (DIPTYCH_MEMORY_BYTES)" if made.device == "cpu" else "the setting devices"
        smaller = "ask for a smaller picture" if size else "use a smaller model"
        return InvalidRequest(
            f"{what} needs about {made.need / MIB:.0f} MiB of {made.device}, but the budget for models there is "
            f"{budget / MIB:.0f} MiB{held}; {smaller}, or change {setting}",
            param="size" if size and self._fits(card) else "model", code="insufficient_memory")

    def _fits(self, card: Card) -> bool:
        return plan(self.request(card), (), self.budget).mode != "refuse"
