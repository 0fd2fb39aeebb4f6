"""No invalid output is ever accepted: samples of what bench/schemas.py runs in whole."""

from __future__ import annotations

from collections import Counter

from schema_checks import compiled, suite_case, walked
from schema_walks import collection


def test_random_texts_of_real_schemas_are_valid() -> None:
    """Of every eleventh schema; `jsonschema`, which the product does not use, is the judge."""
    counts: Counter[str] = Counter()
    wrong = []
    for entry in list(collection("schemastore"))[::11]:
        made = compiled(entry["schema"])
        if isinstance(made, str):
            counts["refused"] += 1
            continue
        counts["exact" if made.exact else "checked"] += 1
        result, told = walked(entry["schema"], made, 7)
        counts[result] += 1
        if result == "wrong":
            wrong.append((entry["name"], told))
    assert not wrong
    total = counts["refused"] + counts["exact"] + counts["checked"]
    assert total > 50
    assert counts["refused"] < 0.25 * total
    assert counts["exact"] > 0.3 * total
    assert counts["valid"] > 0.7 * (counts["exact"] + counts["checked"])


def test_the_suites_invalid_instances_are_refused() -> None:
    counts: Counter[str] = Counter()
    accepted_wrongly = []
    for entry in list(collection("test_suite"))[::9]:
        for name, accepted in suite_case(entry):
            counts[name] += 1
            counts[f"{name} accepted"] += accepted
            if name == "invalid" and accepted:
                accepted_wrongly.append((entry["file"], entry["description"]))
    assert not accepted_wrongly
    assert counts["invalid"] > 250
    assert counts["valid accepted"] > 0.8 * counts["valid"]
