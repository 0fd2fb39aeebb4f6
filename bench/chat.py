"""Chat through Diptych, against llama.cpp (xllamacpp) called directly: the same file, parameters, threads and prompts.

    python bench/chat.py [--rounds N] [--tokens N] [--threads N] [--quick]

Directly means in this process, with a Python callback. Through Diptych means HTTP and server-sent events from the
gateway, which has them from the runner's process. Speed: tokens after the first by the time from the first to the last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import xllamacpp

import harness

SLOTS, CONTEXT, BATCH = 4, 2048, 128
BAR_SPEED, BAR_FIRST = 0.97, 0.005
Answer = tuple[float, float, int]
"""Seconds to the first token, tokens per second after it, tokens."""


def body(number: int, tokens: int) -> dict[str, Any]:
    """A request for a long answer; the number comes first, so that no cached prompt helps either side."""
    text = f"{number}. Write a long story about a ship that carries {number} animals over the sea."
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": tokens, "stream": True}


def direct_to(path: Path, threads: int) -> xllamacpp.Server:
    """llama.cpp with what the engine gives it by default."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * CONTEXT
    params.kv_unified = False
    params.n_batch = params.n_ubatch = BATCH
    params.fit_params = params.warmup = params.cache_idle_slots = False
    params.cache_ram_mib = 0
    params.verbosity = 1
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads, cpu.poll = threads, 0
    params.port, params.n_threads_http = 0, 1
    return xllamacpp.Server(params)


def ask_direct(server: xllamacpp.Server, request: dict[str, Any]) -> Answer:
    times: list[float] = []
    counted = 0

    def take(chunk: dict[str, Any]) -> bool:
        nonlocal counted
        for choice in chunk.get("choices") or ():
            if choice.get("delta", {}).get("content"):
                times.append(time.perf_counter())
        counted = (chunk.get("usage") or {}).get("completion_tokens", counted)
        return False

    began = time.perf_counter()
    server.handle_chat_completions({**request, "stream_options": {"include_usage": True}}, take)
    return times[0] - began, (counted - 1) / (times[-1] - times[0]), counted


def ask_http(client: httpx.Client, request: dict[str, Any]) -> Answer:
    given = {**request, "model": "starter-text", "stream_options": {"include_usage": True}}
    times: list[float] = []
    counted = 0
    began = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=given) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if any(choice["delta"].get("content") for choice in chunk["choices"]):
                times.append(time.perf_counter())
            counted = (chunk.get("usage") or {}).get("completion_tokens", counted)
    return times[0] - began, (counted - 1) / (times[-1] - times[0]), counted


def rounds_of(ways: dict[str, Callable[[dict[str, Any]], Answer]], rounds: int, tokens: int) -> dict[str, list[Answer]]:
    """Both ways in turns, the first of them another in each round; an unmeasured round comes first."""
    answers: dict[str, list[Answer]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        order = list(ways) if number % 2 else list(reversed(ways))
        for name in order:
            answer = ways[name](body(number, tokens))
            if number:
                answers[name].append(answer)
    return answers


def _middle(answers: list[Answer], field: int) -> float:
    return statistics.median(answer[field] for answer in answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 1) // 2),
                        help="of both; half of the cores when left out, as the server does")
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds; its figures mean nothing")
    options = parser.parse_args()
    rounds, tokens = (2, 16) if options.quick else (options.rounds, options.tokens)
    server = direct_to(harness.text_model(), options.threads)
    settings = {"threads": options.threads, "text_threads": options.threads, "text_slots": SLOTS,
                "text_context": CONTEXT, "warm_spare": False}
    with harness.gateway(**settings) as served, httpx.Client(base_url=served.url, timeout=600) as client:
        client.post("/api/models/load", json={"model": "starter-text"}).raise_for_status()
        answers = rounds_of({
            "direct": lambda request: ask_direct(server, request),
            "http": lambda request: ask_http(client, request)}, rounds, tokens)
    direct, http = answers["direct"], answers["http"]
    ratio = harness.median_ratio([one[1] for one in http], [one[1] for one in direct])
    later = statistics.median(one[0] - other[0] for one, other in zip(http, direct, strict=True))
    rows = [(name, f"{_middle(found, 1):.1f}", f"{1000 * _middle(found, 0):.1f}", f"{_middle(found, 2):.0f}")
            for name, found in answers.items()]
    rows += [("ratio", f"{ratio:.3f}", "", ""), ("later, ms", "", f"{1000 * later:+.1f}", "")]
    harness.report("chat", rows, ("way", "tokens/s", "first token, ms", "tokens"), {
        "speed_ratio": round(ratio, 4), "bar_speed": BAR_SPEED, "first_token_later_seconds": round(later, 5),
        "bar_first": BAR_FIRST, "met": ratio >= BAR_SPEED and later <= BAR_FIRST, "rounds": rounds, "tokens": tokens,
        "threads": options.threads, "quick": options.quick})
    os._exit(0)  # llama.cpp's own threads may hold up an ordinary end


if __name__ == "__main__":
    main()
