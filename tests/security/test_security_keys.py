"""Keys on a real server: who is let in, with what, and what callers see of one another."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from secured import Secured, create_key, diptych, until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

WRONG = "dk_0123456789ab_" + "x" * 43
JOB = {"prompt": "a red apple", "steps": 1, "count": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def keys(home: Path) -> dict[str, str]:
    made = {name: create_key(home, name) for name in ("ann", "bob")}
    made["reader"] = create_key(home, "reader", "--scope", "models:read", "--expires", "1d")
    made["root"] = create_key(home, "root", "--scope", "admin")
    return made


@pytest.fixture(scope="module")
def server(home: Path, keys: dict[str, str], starter_text: Path) -> Iterator[Secured]:
    served = Secured(home, model_dirs=[str(starter_text.parent)], text_context=512)
    yield served
    assert served.stop() == 0
    log = served.log_file.read_text() + "".join(file.read_text() for file in (home / "data" / "logs").glob("*.log"))
    assert "Traceback" not in log
    kept = log.encode() + b"".join(file.read_bytes() for file in (home / "data").glob("*") if file.is_file())
    for text in keys.values():  # nowhere on the disk, nor in what was logged
        assert text.encode() not in kept
        assert text.split("_", 2)[2].encode() not in kept


def error(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


def test_without_a_key_only_what_tells_nothing(server: Secured) -> None:
    with server.client() as http:
        for path in ("/health", "/ready", "/openapi.json", "/docs"):
            assert http.get(path).status_code in (200, 503), path
        for method, path in [("GET", "/v1/models"), ("GET", "/api/jobs"), ("POST", "/api/jobs"), ("GET", "/metrics"),
                             ("GET", "/api/system"), ("GET", "/nothing"), ("POST", "/v1/chat/completions"),
                             ("GET", "//api/jobs"), ("GET", "/api/jobs/"), ("OPTIONS", "/api/jobs")]:
            answer = http.request(method, path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert error(answer)["code"] == "invalid_api_key"


@pytest.mark.parametrize("headers", [
    {"authorization": f"Bearer {WRONG}"}, {"authorization": "Bearer sk-something"}, {"authorization": "Bearer"},
    {"x-api-key": WRONG}, {"authorization": "Basic !!!"}, {"authorization": b"Bearer \xff\xfe"}, {"x-api-key": ""},
    {"authorization": "Basic " + base64.b64encode(f"ann:{WRONG}".encode()).decode()},
])
def test_wrong_keys_are_refused_and_not_repeated(server: Secured, headers: dict[str, Any]) -> None:
    with server.client() as http:
        answer = http.get("/v1/models", headers=headers)
    assert answer.status_code == 401
    assert WRONG not in answer.text
    assert "sk-something" not in answer.text


def test_right_key_in_every_place(server: Secured, keys: dict[str, str]) -> None:
    basic = base64.b64encode(f"anybody:{keys['ann']}".encode()).decode()
    with server.client() as http:
        for headers in ({"authorization": f"Bearer {keys['ann']}"}, {"authorization": f"bearer {keys['ann']}"},
                        {"x-api-key": keys["ann"]}, {"authorization": f"Basic {basic}"}):
            assert http.get("/api/keys/self", headers=headers).json()["caller"] == "ann"
        changed = keys["ann"][:-1] + ("A" if keys["ann"][-1] != "A" else "B")
        assert http.get("/v1/models", headers={"x-api-key": changed}).status_code == 401


def test_openai_client(server: Secured, keys: dict[str, str]) -> None:
    message: Any = [{"role": "user", "content": "Say hello."}]
    wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    with pytest.raises(openai.AuthenticationError):
        wrong.chat.completions.create(model="starter-text", messages=message)
    right = openai.OpenAI(base_url=f"{server.url}/v1", api_key=keys["ann"], max_retries=0)
    assert "starter-text" in {model.id for model in right.models.list()}
    answer = right.chat.completions.create(model="starter-text", messages=message, max_tokens=4)
    assert answer.choices[0].message.content
    reader = openai.OpenAI(base_url=f"{server.url}/v1", api_key=keys["reader"], max_retries=0)
    assert list(reader.models.list())
    with pytest.raises(openai.PermissionDeniedError, match="lacks the scope 'chat'"):
        reader.chat.completions.create(model="starter-text", messages=message)


@pytest.mark.parametrize(("name", "method", "path", "scope"), [
    ("reader", "GET", "/api/jobs", "jobs"), ("reader", "POST", "/api/jobs", "images"),
    ("reader", "POST", "/v1/images/generations", "images"), ("reader", "POST", "/v1/completions", "chat"),
    ("ann", "POST", "/api/models/load", "models:write"), ("ann", "POST", "/api/models/pull", "models:write"),
    ("ann", "GET", "/metrics", "metrics"), ("ann", "GET", "/something/new", "admin"),
    ("ann", "POST", "/api/system", "admin"), ("reader", "DELETE", "/api/jobs/x", "jobs"),
])
def test_scopes(server: Secured, keys: dict[str, str], name: str, method: str, path: str, scope: str) -> None:
    with server.client(keys[name]) as http:
        answer = http.request(method, path)
        assert answer.status_code == 403
        assert error(answer)["code"] == "missing_scope"
        assert repr(scope) in error(answer)["message"]
    with server.client(keys["root"]) as http:
        assert http.request(method, path).status_code not in (401, 403)


def test_callers_see_their_own_jobs_only(server: Secured, keys: dict[str, str]) -> None:
    with server.client(keys["ann"]) as ann, server.client(keys["bob"]) as bob, server.client(keys["root"]) as root:
        job = ann.post("/api/jobs", json=JOB).json()
        assert job["caller"] == "ann"
        id = job["id"]
        done = until(lambda: (found := ann.get(f"/api/jobs/{id}").json())["state"] == "succeeded" and found, 120)
        picture = done["artifacts"][0]["url"]
        for path in (f"/api/jobs/{id}", f"/api/jobs/{id}/events", f"/api/jobs/{id}/artifacts", picture):
            assert ann.get(path).status_code == 200, path
            assert bob.get(path).status_code == 404, path
            assert root.get(path).status_code == 200, path
        assert bob.post(f"/api/jobs/{id}/cancel").status_code == 404
        assert bob.delete(f"/api/jobs/{id}").status_code == 404
        assert bob.get("/api/jobs", params={"before": id}).status_code == 404
        assert bob.get("/api/jobs").json()["jobs"] == []
        assert bob.get("/api/jobs", params={"caller": "ann"}).status_code == 403
        assert [item["id"] for item in root.get("/api/jobs", params={"caller": "ann"}).json()["jobs"]] == [id]
        assert bob.post("/api/jobs", json=JOB, headers={"X-Diptych-Caller": "ann"}).status_code == 403
        for name, seen in (("ann", True), ("bob", False)):
            place = f"ws://127.0.0.1:{server.port}/api/jobs/{id}/events/ws"
            with connect(place, additional_headers={"authorization": f"Bearer {keys[name]}"}) as socket:
                assert ("error" not in json.loads(socket.recv(10))) is seen
        with pytest.raises(InvalidStatus):
            connect(f"ws://127.0.0.1:{server.port}/api/jobs/{id}/events/ws").close()


def test_addresses_of_pictures_open_without_a_key_for_a_while(server: Secured, keys: dict[str, str]) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=keys["ann"], max_retries=0)
    made = client.images.generate(model="starter", prompt="a cat", extra_body={"steps": 1}, response_format="url")
    assert made.data and made.data[0].url
    url = made.data[0].url
    assert httpx.get(url).content.startswith(b"\x89PNG")
    path, _, query = url.partition("?")
    assert httpx.get(path).status_code == 401
    assert httpx.get(f"{path}?{query[:-1]}{'0' if query[-1] != '0' else '1'}").status_code == 401
    assert httpx.get(f"{path}?until=99999999999&{query.partition('&')[2]}").status_code == 401
    assert httpx.get(f"{server.url}/api/jobs?{query}").status_code == 401
    assert httpx.post(url).status_code in (401, 405)


def test_new_rotated_and_revoked_keys_in_a_running_server(server: Secured, home: Path) -> None:
    first = create_key(home, "eve")
    with server.client() as http:
        def status(text: str) -> int:
            return http.get("/v1/models", headers={"x-api-key": text}).status_code

        assert status(first) == 200  # a key that is not known has them read again
        second = diptych(home, "key", "rotate", "eve").stdout.strip()
        until(lambda: status(first) == 401)
        assert status(second) == 200
        assert diptych(home, "key", "revoke", "eve").returncode == 0
        until(lambda: status(second) == 401)
        told = error(http.get("/v1/models", headers={"x-api-key": second}))
        assert (told["code"], second in told["message"]) == ("revoked_api_key", False)
    assert "revoked" in diptych(home, "key", "list").stdout
    assert "different" not in diptych(home, "key", "create", "eve").stdout
    assert diptych(home, "key", "create", "EVE").returncode == 1
    assert diptych(home, "key", "rotate", "eve").returncode == 1


def test_the_owner_needs_no_key_on_this_machine(server: Secured, home: Path) -> None:
    done = diptych(home, "jobs", "list", "--json")
    assert done.returncode == 0, done.stderr
    assert {job["caller"] for job in json.loads(done.stdout)} >= {"ann"}
    file = home / "data" / "server.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    refused = diptych(home, "jobs", "list", DIPTYCH_SERVER=server.url)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "needs an API key" in refused.stderr


def test_a_key_for_a_distant_server(server: Secured, home: Path, keys: dict[str, str]) -> None:
    done = diptych(home, "jobs", "list", "--json", DIPTYCH_SERVER=server.url, DIPTYCH_API_KEY=keys["bob"])
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_the_description_names_the_scheme(server: Secured) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert {"bearer": []} in document["security"]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert document["paths"]["/v1/images/generations"]["post"]["x-diptych-scope"] == "images"
    closed = {f"{method} {path}" for path, operations in document["paths"].items()
              for method, operation in operations.items() if operation.get("x-diptych-scope") == "admin"}
    # Any other is a route that no rule of api/policy.py names.
    assert closed == {"post /api/tools", "delete /api/tools/{name}", "get /api/routes", "get /api/routes/{name}"}
