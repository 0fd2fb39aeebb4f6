"""Chat while pictures are made, both on the processor: what each gets of what it gets alone, added up.

    python bench/shared_cpu.py [--rounds N] [--seconds S] [--text-threads N] [--quick]

One caller that chats and one that has pictures made, on a real server: each alone, then both at once, in turns. A sum
above 1 says that the two lose less to each other than by taking turns. Alone means on this same server: a language
model is loaded with half of the cores unless `text_threads` says otherwise, so the tokens per second of one that is
loaded with all cores are told, too, measured on a server of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import psutil

import harness

BAR = 1.15
TOKENS = 2000
PICTURES, STEPS = 4, 20
Rate = Callable[[harness.Gateway, float], float]
"""Of a server, over so many seconds."""


def tokens_per_second(served: harness.Gateway, seconds: float) -> float:
    """Tokens per second of one long answer after another, the prompts left out."""
    made, spent = 0, 0.0
    with httpx.Client(base_url=served.url, timeout=600) as client:
        for number in range(1000):
            count, took = _answer(client, number, seconds - spent)
            made, spent = made + count, spent + took
            if spent >= seconds:
                break
    return made / spent


def _answer(client: httpx.Client, number: int, seconds: float) -> tuple[int, float]:
    """Tokens after the first and their seconds, until the answer ends or `seconds` are over."""
    request: dict[str, Any] = {
        "model": "starter-text", "stream": True, "temperature": 1, "seed": number, "max_tokens": TOKENS,
        "ignore_eos": True, "repetition_stop": False,
        "messages": [{"role": "user", "content": f"{number}. Write a long story about a ship."}]}
    first, last, count = 0.0, 0.0, 0
    with client.stream("POST", "/v1/chat/completions", json=request) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            # One chunk may hold several tokens; the text's length tells as much in all three cases.
            text = "".join(choice["delta"].get("content") or "" for choice in json.loads(line[6:])["choices"])
            if text and not first:
                first = time.perf_counter()
            elif text:
                count, last = count + len(text), time.perf_counter()
            if first and last - first >= seconds:
                break
    return count, max(last - first, 1e-9)


def pictures_per_second(served: harness.Gateway, seconds: float, steps: int = STEPS) -> float:
    with httpx.Client(base_url=served.url, timeout=600) as client:
        began, made = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            fields = {"model": "starter", "prompt": "a red apple", "count": PICTURES, "steps": steps, "seed": made}
            harness.finish(client, harness.submit(client, **fields))
            made += PICTURES
        return made / (time.perf_counter() - began)


def both(served: harness.Gateway, seconds: float, painting: Rate) -> tuple[float, float]:
    """The two rates while the other works; the one that ends first is followed by unmeasured work of the same kind."""
    ended = [threading.Event() for _ in range(2)]

    def keep(rate: Rate, mine: threading.Event, other: threading.Event) -> float:
        try:
            measured = rate(served, seconds)
        finally:
            mine.set()
        while not other.is_set():
            rate(served, 0.5)
        return measured

    with ThreadPoolExecutor(2) as pool:
        text = pool.submit(keep, tokens_per_second, *ended)
        image = pool.submit(keep, painting, *reversed(ended))
        return text.result(), image.result()


def measured(rounds: int, seconds: float, painting: Rate, **settings: Any) -> list[tuple[float, float, float, float]]:
    """Of each round: text alone, pictures alone, text and pictures beside each other."""
    found = []
    with harness.gateway(warm_spare=False, **settings) as served, httpx.Client(base_url=served.url) as client:
        for model in ("starter-text", "starter"):
            client.post("/api/models/load", json={"model": model}, timeout=120).raise_for_status()
        both(served, min(seconds, 3), painting)  # unmeasured
        for _ in range(rounds):
            text = tokens_per_second(served, seconds)
            image = painting(served, seconds)
            found.append((text, image, *both(served, seconds, painting)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--text-threads", type=int, default=0, help="0: as the server chooses")
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds; its figures mean nothing")
    options = parser.parse_args()
    rounds, seconds = (1, 0.5) if options.quick else (options.rounds, options.seconds)
    painting = partial(pictures_per_second, steps=2 if options.quick else STEPS)
    found = measured(rounds, seconds, painting, text_threads=options.text_threads)
    alone_text, alone_image, text, image = (statistics.median(column) for column in zip(*found, strict=True))
    sums = [one[2] / one[0] + one[3] / one[1] for one in found]
    total = statistics.median(sums)
    with harness.gateway(warm_spare=False, text_threads=psutil.cpu_count() or 1) as served:
        tokens_per_second(served, 1)
        full = statistics.median(tokens_per_second(served, seconds) for _ in range(rounds))
    rows = [("text alone", f"{alone_text:.0f}", "", ""), ("pictures alone", "", f"{alone_image:.2f}", ""),
            ("both", f"{text:.0f}", f"{image:.2f}", f"{total:.2f}"),
            ("share of alone", f"{text / alone_text:.2f}", f"{image / alone_image:.2f}", ""),
            ("text alone, all cores", f"{full:.0f}", "", "")]
    harness.report("shared_cpu", rows, ("", "characters/s", "pictures/s", "sum of shares"), {
        "sum": round(total, 3), "bar": BAR, "met": total >= BAR, "sums": [round(one, 3) for one in sums],
        "text_alone": round(alone_text, 1), "text_alone_all_cores": round(full, 1),
        "pictures_alone": round(alone_image, 3), "text_both": round(text, 1), "pictures_both": round(image, 3),
        "rounds": rounds, "seconds": seconds, "quick": options.quick})


if __name__ == "__main__":
    main()
