"""`/metrics` after real pictures, answers, faults and refusals."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from typing import Any

import httpx
import psutil
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

import diptych

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]
Until = Callable[..., Any]
PICTURE = {"model": "tiny", "prompt": "a red apple", "width": 64, "height": 64, "steps": 3, "count": 2}
CHAT = {"model": "starter-text", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 12}


def read(http: httpx.Client) -> Values:
    answer = http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {(one.name, tuple(sorted(one.labels.items()))): one.value
            for family in text_string_to_metric_families(answer.text) for one in family.samples}


def value(values: Values, name: str, **labels: str) -> float:
    """The sum over all samples that have these labels."""
    return sum(number for (found, having), number in values.items()
               if found == name and set(labels.items()) <= set(having))


def finished(http: httpx.Client, until: Until, **fields: Any) -> dict[str, Any]:
    id = http.post("/api/jobs", json={**PICTURE, **fields}).raise_for_status().json()["id"]
    job: dict[str, Any] = until(lambda: (now := http.get(f"/api/jobs/{id}").json())["state"] in (
        "succeeded", "failed", "cancelled") and now)
    return job


def test_pictures_are_counted(http: httpx.Client, until: Until) -> None:
    before = read(http)
    assert finished(http, until)["state"] == "succeeded"
    after = read(http)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert more("diptych_pictures_total", model="tiny") == 2
    assert more("diptych_steps_total", model="tiny") == 6
    assert more("diptych_job_attempts_total", panel="image", model="tiny") == 1
    assert more("diptych_jobs_ended_total", panel="image", outcome="succeeded") == 1
    assert more("diptych_job_waiting_seconds_count", priority="interactive") == 1
    assert more("diptych_job_running_seconds_count", outcome="succeeded") == 1
    assert more("diptych_job_running_seconds_sum") > 0
    assert more("diptych_steps_per_second_count", model="tiny") == 1
    until(lambda: value(read(http), "diptych_jobs", state="succeeded", panel="image") >= 1)  # counted once a second
    assert value(after, "diptych_runners", engine="image", state="ready") == 1


def test_answers_are_counted(http: httpx.Client) -> None:
    before = read(http)
    counted = http.post("/v1/chat/completions", json=CHAT).raise_for_status().json()["usage"]
    with http.stream("POST", "/v1/chat/completions", json={
            **CHAT, "stream": True, "stream_options": {"include_usage": True}}) as answer:
        lines = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    streamed = lines[-1]["usage"]
    after = read(http)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert more("diptych_tokens_total", direction="in") == counted["prompt_tokens"] + streamed["prompt_tokens"]
    assert more("diptych_tokens_total", direction="out") == (
        counted["completion_tokens"] + streamed["completion_tokens"])
    assert more("diptych_time_to_first_token_seconds_count", model="starter-text") == 2
    assert more("diptych_tokens_per_second_count") == 2
    assert more("diptych_jobs_ended_total", panel="text", outcome="succeeded") == 2
    assert value(after, "diptych_text_answers_running") == 0


def test_faults_retries_and_cancels_are_counted(http: httpx.Client, until: Until) -> None:
    before = read(http)
    slow = http.post("/api/jobs", json={**PICTURE, "steps": 900, "count": 8}).json()["id"]
    until(lambda: value(read(http), "diptych_steps_total") > value(before, "diptych_steps_total"))
    until(lambda: value(read(http), "diptych_jobs", state="running") == 1)
    runner = next(one for one in http.get("/api/system").json()["runners"] if one["model"] == "tiny")
    os.kill(runner["pid"], signal.SIGKILL)
    until(lambda: value(read(http), "diptych_job_retries_total", reason="runner_died") == 1)
    until(lambda: http.get(f"/api/jobs/{slow}").json()["attempts"] == 2)
    http.post(f"/api/jobs/{slow}/cancel").raise_for_status()
    until(lambda: http.get(f"/api/jobs/{slow}").json()["state"] == "cancelled")
    until(lambda: value(read(http), "diptych_jobs_ended_total", outcome="cancelled", panel="image") == 1)
    refused = http.post("/v1/chat/completions", json={**CHAT, "messages": [{"role": "user", "content": "a " * 900}]})
    assert refused.status_code == 400
    after = read(http)
    assert value(after, "diptych_job_failures_total", panel="text") == 1
    assert value(after, "diptych_job_running_seconds_count", outcome="retried") == 1
    assert value(after, "diptych_job_attempts_total") - value(before, "diptych_job_attempts_total") == 2


def test_requests_are_counted_by_template(http: httpx.Client) -> None:
    def counted(before: Values, after: Values, **labels: str) -> float:
        return value(after, requests, **labels) - value(before, requests, **labels)

    requests = "diptych_http_requests_total"
    before = read(http)
    for path in ("/api/jobs/" + "0" * 32, "/api/jobs/" + "1" * 32, "/no/such/page", "/other/page", "/docs"):
        http.get(path)
    http.request("PURR", "/api/jobs")
    values = read(http)
    by_route = {dict(labels)["route"] for name, labels in values if name == requests}
    assert "/api/jobs/{id}" in by_route
    assert counted(before, values, route="/api/jobs/{id}", status="404") == 2
    assert counted(before, values, route="unmatched", status="404") == 2
    assert counted(before, values, route="/docs", status="200") == 1
    assert counted(before, values, method="OTHER") == 1
    assert value(values, "diptych_http_request_seconds_count", route="unmatched") >= 2
    assert value(values, "diptych_http_requests_open") == 1  # this one


def test_labels_are_few_and_hold_no_ids(http: httpx.Client) -> None:
    values = read(http)
    for name, labels in values:
        for label, text in labels:
            assert not re.search(r"[0-9a-f]{12}", text), (name, label, text)
            assert len(text) < 100
    assert len(values) < 1000


def test_state_of_the_machine(http: httpx.Client, watched: Any) -> None:
    values, system = read(http), http.get("/api/system").json()
    (device,) = [one for one in system["devices"] if one["name"] == "cpu"]
    assert value(values, "diptych_memory_budget_bytes", device="cpu") == device["memory_for_models"] > 0
    assert value(values, "diptych_memory_leased_bytes", device="cpu") == device["memory_leased"] > 0
    assert value(values, "diptych_memory_measured_bytes", device="cpu") == device["memory_measured"] > 0
    assert device["busy_percent"] is None or 0 <= device["busy_percent"] <= 100
    assert {dict(labels)["priority"] for name, labels in values if name == "diptych_queue_length"} == {
        "interactive", "batch", "training"}
    assert value(values, "diptych_build_info", version=diptych.__version__) == 1
    resident = psutil.Process(watched.process.pid).memory_info().rss
    assert abs(value(values, "process_resident_memory_bytes") - resident) < 0.2 * resident
    assert value(values, "diptych_draining") == 0


def test_openmetrics_where_it_is_asked_for(http: httpx.Client) -> None:
    answer = http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert {"diptych_jobs", "diptych_http_requests"} <= {family.name for family in parse_openmetrics(answer.text)}
