"""`/v1/images/generations` with OpenAI's own client, on a tiny image model."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

TINY: dict[str, Any] = {"model": "tiny", "prompt": "a red apple", "size": "64x64"}
FEW = {"steps": 4, "seed": 3}
Until = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=120) as client:
        yield client


def spec_in(raw: bytes) -> dict[str, Any]:
    with Image.open(io.BytesIO(raw)) as picture:
        assert picture.format == "PNG"
        found: dict[str, Any] = json.loads(picture.text["diptych"])["spec"]  # type: ignore[attr-defined]
    return found


def test_url_and_base64_are_the_same_picture(client: openai.OpenAI, server: Any) -> None:
    by_url = client.images.generate(**TINY, n=2, extra_body=FEW)
    in_text = client.images.generate(**TINY, n=2, response_format="b64_json", extra_body=FEW)
    assert by_url.data is not None
    assert in_text.data is not None
    assert len(by_url.data) == len(in_text.data) == 2
    for linked, whole in zip(by_url.data, in_text.data, strict=True):
        assert linked.url is not None
        assert linked.url.startswith(server.url)
        assert whole.b64_json is not None
        one, other = httpx.get(linked.url).content, base64.b64decode(whole.b64_json)
        assert spec_in(one) == spec_in(other)
        with Image.open(io.BytesIO(one)) as first, Image.open(io.BytesIO(other)) as second:
            assert first.tobytes() == second.tobytes()
    assert by_url.created > 0


def test_own_fields(client: openai.OpenAI) -> None:
    more = {"steps": 2, "seed": 11, "negative_prompt": "blue", "guidance": 3.5, "sampler": "DPM++ 2M",
            "schedule": "karras"}
    made = client.images.generate(**{**TINY, "size": "auto"}, response_format="b64_json", extra_body=more)
    assert made.data is not None
    spec = spec_in(base64.b64decode(made.data[0].b64_json or ""))
    assert {name: spec[name] for name in more} == more
    assert (spec["width"], spec["height"]) == (64, 64)


def test_partial_images(client: openai.OpenAI) -> None:
    events = list(client.images.generate(**TINY, stream=True, partial_images=2, extra_body={**FEW, "steps": 9}))
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]  # type: ignore[union-attr]
    for event in events:
        with Image.open(io.BytesIO(base64.b64decode(event.b64_json))) as picture:
            assert picture.format == "PNG"
        assert (event.size, event.output_format, event.background) == ("64x64", "png", "opaque")
    assert spec_in(base64.b64decode(events[-1].b64_json))["seed"] == 3
    several = list(client.images.generate(**TINY, n=2, stream=True, extra_body=FEW))
    assert [event.type for event in several] == ["image_generation.completed"] * 2


def test_errors_name_openai_s_fields(client: openai.OpenAI) -> None:
    def param(**more: Any) -> str | None:
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.generate(**{**TINY, **more})
        return refused.value.param

    assert param(size="63x64") == "size"
    assert param(size="99999x64") == "size"
    assert param(n=65) == "n"
    assert param(quality="high") == "quality"
    assert param(model="starter-text") == "model"
    with pytest.raises(openai.NotFoundError, match="tiny"):
        client.images.generate(**{**TINY, "model": "nothing"})


def last_job(http: httpx.Client, prompt: str) -> dict[str, Any]:
    found = http.get("/api/jobs", params={"limit": 1}).json()["jobs"][0]
    return dict(found) if found["spec"]["prompt"] == prompt else {}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_cancels_its_job(http: httpx.Client, server: Any, until: Until, stream: bool) -> None:
    prompt = f"left alone {stream}"
    body = {**TINY, "prompt": prompt, "size": "256x256", "n": 16, "steps": 900, "stream": stream}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=httpx.Timeout(5, read=1.5))
    until(lambda: last_job(http, prompt).get("state") == "cancelled")


@pytest.mark.parametrize("stream", [False, True])
def test_a_job_that_somebody_cancels(http: httpx.Client, client: openai.OpenAI, until: Until, stream: bool) -> None:
    """The waiting client hears so, and does not order the picture anew by itself."""
    from concurrent.futures import ThreadPoolExecutor

    prompt = f"cancelled {stream}"
    slow: dict[str, Any] = {**TINY, "prompt": prompt, "size": "256x256", "n": 16, "stream": stream}

    def make() -> Any:
        made = client.images.generate(**slow, extra_body={"steps": 900})
        return list(made)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make)
        job = until(lambda: last_job(http, prompt))
        http.post(f"/api/jobs/{job['id']}/cancel")
        with pytest.raises(openai.APIError, match="cancelled"):
            waiting.result(60)
    assert last_job(http, prompt)["id"] == job["id"]
