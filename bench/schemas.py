"""Which JSON schemas can be held, and whether anything invalid is ever let through.

    python bench/schemas.py [--walks N] [--every N] [--quick]

No model is needed: for each schema of the collection (SchemaStore's, real ones) random texts are made that its grammar
allows, byte by byte. Each has to be valid for `jsonschema`, a library that the server does not use. Then the JSON
Schema Test Suite: an instance is accepted when the grammar allows it and the check at the end passes; none of its
invalid ones may be. Exit status 1 when an invalid text was accepted.

- exact: the grammar enforces all of the schema; such answers are streamed.
- checked: some of its keywords are left to the check, which an answer passes before it is told.
- refused: 400, before a token is made.
- unfinished: the walk had not come to an end after 3,000 bytes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "structured"))

from schema_checks import compiled, suite_case, walked
from schema_walks import collection


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--walks", type=int, default=3, help="texts per schema")
    parser.add_argument("--every", type=int, default=1, help="take every Nth schema")
    parser.add_argument("--quick", action="store_true", help="a smoke test: every twentieth")
    options = parser.parse_args()
    began = time.perf_counter()
    every = 20 if options.quick else options.every
    real, seconds, wrong, unheld, refusals = _real(options.walks, every)
    suite = _suite(every, wrong)
    _table(real, suite, seconds, unheld, refusals, wrong)
    total = real["exact"] + real["checked"] + real["refused"]
    print(json.dumps({
        "bench": "schemas", "schemas": total, "exact": real["exact"], "checked": real["checked"],
        "refused": real["refused"], "supported_share": round(1 - real["refused"] / total, 4), "texts": real["texts"],
        "failed_check": real["failed check"], "unfinished": real["unfinished"], "invalid_accepted": len(wrong),
        "compile_ms_median": round(1000 * statistics.median(seconds), 2), "compile_ms_worst": round(
            1000 * max(seconds), 1), "suite_invalid": suite["invalid"], "suite_valid": suite["valid"],
        "suite_valid_accepted": suite["valid accepted"], "suite_refused_schemas": suite["refused"],
        "seconds": round(time.perf_counter() - began, 1)}))
    return 1 if wrong else 0


def _real(walks: int, every: int) -> tuple[Counter[str], list[float], list[str], Counter[str], Counter[str]]:
    counts: Counter[str] = Counter()
    unheld: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    seconds, wrong = [], []
    for entry in list(collection("schemastore"))[::every]:
        start = time.perf_counter()
        made = compiled(entry["schema"])
        seconds.append(time.perf_counter() - start)
        if isinstance(made, str):
            counts["refused"] += 1
            refusals["another document" if "another document" in made else made.split(": ", 1)[-1][:60]] += 1
            continue
        counts["exact" if made.exact else "checked"] += 1
        unheld.update(made.unheld)
        for seed in range(walks):
            result, told = walked(entry["schema"], made, seed)
            counts["texts"] += result != "unfinished"
            counts[result] += 1
            if result == "wrong":
                wrong.append(f"{entry['name']}: {told}")
    return counts, seconds, wrong, unheld, refusals


def _suite(every: int, wrong: list[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for entry in list(collection("test_suite"))[::every]:
        for name, accepted in suite_case(entry):
            counts[name] += 1
            counts[f"{name} accepted"] += accepted
            if name == "invalid" and accepted:
                wrong.append(f"{entry['file']}: {entry['description']}")
    return counts


def _table(real: Counter[str], suite: Counter[str], seconds: list[float], unheld: Counter[str],
           refusals: Counter[str], wrong: list[str]) -> None:
    total = real["exact"] + real["checked"] + real["refused"]
    rows: list[tuple[str, Any]] = [
        ("real schemas", total), *((f"  {name}", f"{real[name]} ({real[name] / total:.1%})")
                                   for name in ("exact", "checked", "refused")),
        ("random texts", real["texts"]), ("  valid, also for jsonschema", real["valid"]),
        ("  held back by the check", real["failed check"]), ("  invalid and accepted", real["wrong"]),
        ("walks that did not end", real["unfinished"]),
        ("compile, median / worst", f"{1000 * statistics.median(seconds):.1f} / {1000 * max(seconds):.0f} ms"),
        ("test suite: schemas refused", suite["refused"]),
        ("test suite: invalid instances accepted", f"{suite['invalid accepted']} of {suite['invalid']}"),
        ("test suite: valid instances accepted", f"{suite['valid accepted']} of {suite['valid']}")]
    for name, value in rows:
        print(f"{name:<42}{value}")
    print("left to the check: " + ", ".join(f"{name} {count}" for name, count in unheld.most_common()))
    print("refused because of: " + ", ".join(f"{name} {count}" for name, count in refusals.most_common(12)))
    for line in wrong[:20]:
        print(f"WRONG {line}")


if __name__ == "__main__":
    sys.exit(main())
