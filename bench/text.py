"""The text engine: prefix cache, constrained against free decoding, four clients at once.

    python bench/text.py [--rounds N] [--tokens N] [--threads N] [--quick]

In this process, on the engine itself, with the starter model and with a tiny model that has a vocabulary of 131,072
tokens (Mistral's; made by tests/text_models). Constrained: a grammar that never ends the answer, so that both ways make
the same number of tokens; time per token after the first, rounds alternate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import harness

sys.path.insert(0, str(harness.ROOT / "tests" / "text_models"))

import tiny

from diptych.core.chat import Message
from diptych.core.events import Event, Failed, Finished, Metrics
from diptych.core.protocol import LoadRequest, RunRequest
from diptych.core.specs import ChatSpec, CompletionSpec, Sampling, TextSpec
from diptych.engines.text.llamacpp import LlamaCppEngine
from diptych.library.identify import identify_gguf

BAR_CONSTRAINED = 1.25
CLIENTS = 4
GRAMMARS = {
    "regex": "start: /[a-z]{1,12}( [a-z]{1,12})*/",
    "json": 'start: %json {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string", '
            '"maxLength": 20}, "age": {"type": "integer"}}, "required": ["name", "age"], '
            '"additionalProperties": false}, "minItems": 500, "x-guidance": {"whitespace_flexible": false}}',
}


class Bench:
    """One loaded model."""

    def __init__(self, path: Path, threads: int) -> None:
        card = identify_gguf(path)
        assert card is not None
        self.engine = LlamaCppEngine()
        self.engine.load(LoadRequest(card=card, threads=threads, options={"slots": CLIENTS, "context": 2048}))
        self._count = 0

    def run(self, specs: Sequence[TextSpec]) -> list[dict[str, float]]:
        """The figures of runs begun at once."""
        return [wait() for wait in [self._begin(spec) for spec in specs]]

    def _begin(self, spec: TextSpec):  # type: ignore[no-untyped-def]
        events: list[Event] = []
        ended = threading.Event()

        def take(event: Event) -> None:
            events.append(event)
            if isinstance(event, (Finished, Failed)):
                ended.set()

        def wait() -> dict[str, float]:
            ended.wait()
            if isinstance(events[-1], Failed):
                raise SystemExit(f"a run failed: {events[-1].message}")
            return next(event.values for event in events if isinstance(event, Metrics))

        self._count += 1
        self.engine.submit(RunRequest(id=f"run-{self._count}", spec=spec), take)
        return wait


def story(number: int, tokens: int, grammar: str | None = None) -> CompletionSpec:
    """The number comes first, so that no cached prompt helps."""
    return CompletionSpec(
        prompt=f"{number}. A list of people and their ages:", grammar=grammar,
        sampling=Sampling(temperature=0, max_tokens=tokens, ignore_eos=grammar is None))


def second_turn(bench: Bench, rounds: int) -> tuple[float, float]:
    """Median seconds to the first token of a first turn of about 1,000 tokens, and of the turn after it."""
    firsts, seconds = [], []
    for number in range(rounds):
        turn = Message(role="user", content=f"{number}. " + "The ship sails over the deep blue sea at night. " * 90)
        sampling = Sampling(temperature=0, max_tokens=8)
        (first,) = bench.run([ChatSpec(messages=(turn,), sampling=sampling)])
        more = (turn, Message(role="assistant", content="Yes, it does."), Message(role="user", content="Where to?"))
        (second,) = bench.run([ChatSpec(messages=more, sampling=sampling)])
        firsts.append(first["first_token_seconds"])
        seconds.append(second["first_token_seconds"])
    return statistics.median(firsts), statistics.median(seconds)


def constrained(bench: Bench, rounds: int, tokens: int) -> dict[str, float]:
    """Median time per token by way, in seconds."""
    found: dict[str, list[float]] = {name: [] for name in ("free", *GRAMMARS)}
    for number in range(rounds + 1):
        for name, times in found.items():
            (run,) = bench.run([story(number, tokens, GRAMMARS.get(name))])
            if number and run["completion_tokens"] >= tokens / 2:
                times.append(1 / run["tokens_per_second"])
    return {name: statistics.median(times) for name, times in found.items()}


def crowd(bench: Bench, rounds: int, tokens: int) -> tuple[float, float]:
    """Median seconds of four answers one after the other, and at once."""
    apart, together = [], []
    for number in range(rounds):
        specs = [story(1000 * number + client, tokens) for client in range(CLIENTS)]
        began = time.perf_counter()
        for spec in specs:
            bench.run([spec])
        apart.append(time.perf_counter() - began)
        began = time.perf_counter()
        bench.run([story(1000 * number + 500 + client, tokens) for client in range(CLIENTS)])
        together.append(time.perf_counter() - began)
    return statistics.median(apart), statistics.median(together)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds; its figures mean nothing")
    options = parser.parse_args()
    rounds, tokens = (1, 12) if options.quick else (options.rounds, options.tokens)
    starter = Bench(harness.text_model(), options.threads)
    first, second = second_turn(starter, rounds)
    apart, together = crowd(starter, rounds, tokens)
    times = {"starter": constrained(starter, rounds, tokens)}
    starter.engine.close()
    large = Bench(tiny.mistral("v7"), options.threads)
    times["131k vocabulary, tiny model"] = constrained(large, rounds, tokens)
    large.engine.close()
    rows: list[tuple[object, ...]] = [
        ("first token, first turn, ms", f"{1000 * first:.1f}"),
        ("first token, second turn, ms", f"{1000 * second:.1f}"),
        ("four answers, one after the other, s", f"{apart:.2f}"), ("four answers at once, s", f"{together:.2f}")]
    ratios: dict[str, dict[str, float]] = {}
    for model, ways in times.items():
        ratios[model] = {way: round(ways[way] / ways["free"], 3) for way in GRAMMARS}
        rows += [(f"{model}: {way}, ms per token", f"{1000 * seconds:.2f}") for way, seconds in ways.items()]
        rows += [(f"{model}: {way} / free", f"{ratio:.3f}") for way, ratio in ratios[model].items()]
    harness.report("text", rows, ("what", "measured"), {
        "first_turn_seconds": round(first, 5), "second_turn_seconds": round(second, 5),
        "apart_seconds": round(apart, 4), "together_seconds": round(together, 4), "constrained_ratios": ratios,
        "bar_constrained": BAR_CONSTRAINED,
        "met": all(ratio <= BAR_CONSTRAINED for found in ratios.values() for ratio in found.values()),
        "rounds": rounds, "tokens": tokens, "threads": options.threads, "quick": options.quick})
    os._exit(0)  # llama.cpp's own threads may hold up an ordinary end


if __name__ == "__main__":
    main()
