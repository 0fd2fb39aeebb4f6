"""`/api/collections` on the real server: files in, passages out, whose they are, and that nothing half is ever seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from grounded_server import Server
from pdf_file import pdf

LEAVE = "Everybody has thirty days of leave a year. Leave is asked for a week before."
LUNCH = "# Lunch\n\nThe canteen opens at noon.\n\n# Coffee\n\nThe machine on the second floor is free of charge."
HTML = ("<html><head><title>Fire &amp; safety</title><script>var secret = 1;</script></head><body><h1>Alarm</h1>"
        "<p>When the alarm rings, leave by the   <b>east</b> door.</p><ul><li>no lifts<li>no bags</ul></body></html>")


@pytest.fixture
def name(http: httpx.Client) -> Iterator[str]:
    made = http.post("/api/collections", json={"name": "handbook"})
    assert made.status_code == 201, made.text
    yield "handbook"
    http.delete("/api/collections/handbook")


def add(http: httpx.Client, name: str, *documents: dict[str, Any]) -> list[dict[str, Any]]:
    answer = http.post(f"/api/collections/{name}/documents", json={"documents": documents})
    assert answer.status_code == 201, answer.text
    found: list[dict[str, Any]] = answer.json()["documents"]
    return found


def find(http: httpx.Client, name: str, query: str, **fields: Any) -> list[dict[str, Any]]:
    answer = http.post(f"/api/collections/{name}/search", json={"query": query, **fields})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def test_life_of_a_collection(http: httpx.Client, name: str) -> None:
    assert http.post("/api/collections", json={"name": name}).status_code == 409
    first, second = add(http, name, {"id": "leave", "title": "Leave", "text": LEAVE},
                        {"text": LUNCH, "media_type": "text/markdown"})
    assert (first["id"], first["title"], first["characters"], first["passages"]) == ("leave", "Leave", len(LEAVE), 1)
    assert second["id"].startswith("doc-")
    seen = http.get(f"/api/collections/{name}").json()
    assert (seen["documents"], seen["model"]) == (2, None)
    assert seen["passages"] == first["passages"] + second["passages"]
    assert [one["name"] for one in http.get("/api/collections").json()["collections"]] == [name]
    page = http.get(f"/api/collections/{name}/documents", params={"limit": 1}).json()
    assert page["documents"] == [first] and page["next"] == "leave"
    rest = http.get(f"/api/collections/{name}/documents", params={"limit": 1, "after": "leave"}).json()
    assert rest == {"documents": [second], "next": None}
    assert http.get(f"/api/collections/{name}/documents/leave").json() == {**first, "text": LEAVE}
    [changed] = add(http, name, {"id": "leave", "title": "Leave", "text": "Now it is twenty-eight days."})
    assert http.get(f"/api/collections/{name}").json()["documents"] == 2 and changed["sha256"] != first["sha256"]
    assert not find(http, name, "thirty")
    assert http.delete(f"/api/collections/{name}/documents/leave").json() == {"id": "leave", "deleted": True}
    assert http.get(f"/api/collections/{name}/documents/leave").status_code == 404
    assert http.delete(f"/api/collections/{name}/documents/leave").status_code == 404
    assert http.delete(f"/api/collections/{name}").status_code == 200
    for path in ("", "/documents", "/documents/leave"):
        assert http.get(f"/api/collections/{name}{path}").status_code == 404
    assert http.delete(f"/api/collections/{name}").status_code == 404


def test_files(http: httpx.Client, name: str) -> None:
    """Names of files are told, and never used as paths."""
    files = [("file", ("../../etc/leave.txt", LEAVE.encode(), "text/plain")),
             ("file", ("lunch.md", LUNCH.encode(), "application/octet-stream")),
             ("file", ("alarm.html", HTML.encode(), "text/html; charset=utf-8")),
             ("file", ("report.pdf", pdf("Turnover rose to 42 million.", "Costs fell."), "application/pdf"))]
    answer = http.post(f"/api/collections/{name}/documents", files=files)
    assert answer.status_code == 201, answer.text
    made = answer.json()["documents"]
    assert [one["title"] for one in made] == ["leave.txt", "lunch.md", "Fire & safety", "report.pdf"]
    assert [one["media_type"] for one in made] == ["text/plain", "text/markdown", "text/html", "application/pdf"]
    texts = [http.get(f"/api/collections/{name}/documents/{one['id']}").json()["text"] for one in made]
    assert texts[:2] == [LEAVE, LUNCH]
    assert texts[2] == "Alarm\n\nWhen the alarm rings, leave by the east door.\n\nno lifts\nno bags"
    assert "Turnover rose to 42 million." in texts[3] and "Costs fell." in texts[3]
    for query, document in (("turnover", 3), ("alarm", 2), ("coffee machine", 1), ("days of leave", 0)):
        best = find(http, name, query)[0]
        assert best["id"] == made[document]["id"]
        assert texts[document][best["start"]:best["end"]] == best["text"]


def test_search_by_words_and_vectors(http: httpx.Client) -> None:
    assert http.post("/api/collections", json={
        "name": "mixed", "model": "starter-text", "characters": 200, "overlap": 0}).status_code == 201
    try:
        add(http, "mixed", {"id": "leave", "text": LEAVE}, {"id": "lunch", "text": LUNCH},
            {"id": "far", "text": "Whales are mammals that live in the sea."})
        exact = find(http, "mixed", "Whales are mammals that live in the sea.", mode="vector", top_k=2)
        assert exact[0]["id"] == "far" and exact[0]["ranks"] == {"vector": 1} and len(exact) == 2
        words = find(http, "mixed", "canteen whales", mode="keyword")
        assert {one["id"] for one in words} == {"lunch", "far"}
        assert all(set(one["ranks"]) == {"keyword"} for one in words)
        both = find(http, "mixed", "whales mammals")
        assert both[0]["id"] == "far" and both[0]["ranks"]["keyword"] == 1 and "vector" in both[0]["ranks"]
        score = 1 / 61 + 1 / (60 + both[0]["ranks"]["vector"])
        assert abs(both[0]["score"] - score) < 1e-5
        assert [one["score"] for one in both] == sorted((one["score"] for one in both), reverse=True)
        assert len({one["id"] for one in both}) == 3  # vectors rank what has none of the words
    finally:
        http.delete("/api/collections/mixed")


def test_odd_questions(http: httpx.Client, name: str) -> None:
    add(http, name, {"text": LEAVE})
    for query in ('"', "?!", "leave AND", "NEAR(", "a*", "col:leave", "-leave", "' OR 1=1 --", "^", "日本", "%_"):
        assert isinstance(find(http, name, query), list)
    assert find(http, name, 'how many "days"?')


def test_answers_from_a_collection(http: httpx.Client, name: str) -> None:
    add(http, name, {"id": "leave", "title": "Leave", "text": LEAVE}, {"id": "lunch", "text": LUNCH})
    body = {"model": "starter-text", "temperature": 0, "max_tokens": 96, "citations": "quote",
            "messages": [{"role": "user", "content": "How many days of leave does everybody have?"}]}
    for collection in (name, {"name": name, "top_k": 1, "mode": "keyword"}):
        answer = http.post("/v1/chat/completions", json={**body, "collection": collection})
        assert answer.status_code == 200, answer.text
        used = answer.json()["documents_used"]
        assert used[0]["id"] == "leave" and used[0]["collection"] == name and used[0]["score"] > 0
        citations = answer.json()["choices"][0]["message"]["citations"]
        assert citations
        for citation in citations:
            for source in citation["sources"]:
                text = {"leave": LEAVE, "lunch": LUNCH}[source["id"]]
                assert source["collection"] == name
                assert text[source["start"]:source["end"]] == source["quote"]


def test_an_empty_collection_has_no_citations(http: httpx.Client, name: str) -> None:
    body = {"model": "starter-text", "temperature": 0, "max_tokens": 16, "collection": name,
            "messages": [{"role": "user", "content": "How many days?"}]}
    for mode in ("auto", "quote"):
        found = http.post("/v1/chat/completions", json={**body, "citations": mode}).json()
        assert found["documents_used"] == [] and found["choices"][0]["message"]["citations"] == []
    assert '"' not in found["choices"][0]["message"]["content"]


def test_collections_belong_to_their_caller(http: httpx.Client, name: str) -> None:
    add(http, name, {"id": "leave", "text": LEAVE})
    other = {"X-Diptych-Caller": "ann"}
    assert http.get("/api/collections", headers=other).json() == {"collections": []}
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/documents"), ("GET", "/documents/leave"),
                         ("DELETE", "/documents/leave")):
        assert http.request(method, f"/api/collections/{name}{path}", headers=other).status_code == 404
    assert http.post(f"/api/collections/{name}/search", json={"query": "leave"}, headers=other).status_code == 404
    chat = http.post("/v1/chat/completions", headers=other, json={
        "model": "starter-text", "collection": name, "messages": [{"role": "user", "content": "leave?"}]})
    assert chat.status_code == 404 and chat.json()["error"]["param"] == "collection"
    assert http.post("/api/collections", json={"name": name}, headers=other).status_code == 201  # a name of her own
    assert http.delete(f"/api/collections/{name}", headers=other).status_code == 200
    assert http.get(f"/api/collections/{name}/documents/leave").status_code == 200


def test_nothing_is_left_of_what_was_deleted(server: Server, http: httpx.Client, name: str) -> None:
    add(http, name, {"id": "a", "text": "The password of the vault is xylophonist."}, {"id": "b", "text": LEAVE})
    assert http.delete(f"/api/collections/{name}/documents/a").status_code == 200
    files = [path for path in (server.data / "collections").rglob("*") if path.is_file()]
    assert files and not any(b"xylophonist" in path.read_bytes() for path in files)
    assert find(http, name, "leave") and not find(http, name, "xylophonist")
    http.delete(f"/api/collections/{name}")
    assert not [path for path in (server.data / "collections").rglob("*") if path.is_file()]


LONG = " ".join(f"Paragraph {index} tells of the river and its {index} bridges." for index in range(400))


def test_killed_while_a_document_is_added(server: Server, http: httpx.Client) -> None:
    """After `kill -9` of the server what was whole is there, and of what was not there is nothing."""
    assert http.post("/api/collections", json={
        "name": "kept", "model": "starter-text", "characters": 200, "overlap": 0}).status_code == 201
    add(http, "kept", {"id": "whole", "text": LEAVE})

    faults: list[httpx.TransportError] = []

    def send() -> None:
        try:
            httpx.post(f"{server.url}/api/collections/kept/documents", timeout=120,
                       json={"documents": [{"id": "half", "text": LONG}, {"id": "other", "text": LUNCH}]})
        except httpx.TransportError as error:
            faults.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    time.sleep(0.7)  # vectors are being made
    server.kill()
    thread.join()
    assert faults  # it was in the middle
    server.start()
    with httpx.Client(base_url=server.url, timeout=120) as after:
        found = after.get("/api/collections/kept").json()
        assert (found["documents"], found["passages"]) == (1, 1)
        assert [one["id"] for one in after.get("/api/collections/kept/documents").json()["documents"]] == ["whole"]
        assert find(after, "kept", "days of leave")[0]["id"] == "whole"
        assert not find(after, "kept", "bridges", mode="keyword")
        assert after.delete("/api/collections/kept").status_code == 200


BAD: list[tuple[str, dict[str, Any], int, str]] = [
    ("", {}, 400, "name"),
    ("", {"name": "Upper"}, 400, "name"),
    ("", {"name": "../up"}, 400, "name"),
    ("", {"name": "a" * 65}, 400, "name"),
    ("", {"name": "new", "model": "nowhere"}, 404, "model"),
    ("", {"name": "new", "characters": 100}, 400, "characters"),
    ("", {"name": "new", "characters": 200, "overlap": 200}, 400, "overlap"),
    ("", {"name": "new", "colour": "red"}, 400, "colour"),
    ("/handbook/documents", {}, 400, "documents"),
    ("/handbook/documents", {"documents": []}, 400, "documents"),
    ("/handbook/documents", {"documents": ["text"]}, 400, "documents[0]"),
    ("/handbook/documents", {"documents": [{"text": ""}]}, 400, "documents[0].text"),
    ("/handbook/documents", {"documents": [{"text": "  \n "}]}, 400, "documents[0].text"),
    ("/handbook/documents", {"documents": [{"text": 7}]}, 400, "documents[0].text"),
    ("/handbook/documents", {"documents": [{"text": "a", "id": "a/b"}]}, 400, "documents[0].id"),
    ("/handbook/documents", {"documents": [{"text": "a", "path": "/etc/passwd"}]}, 400, "documents[0].path"),
    ("/handbook/documents", {"documents": [{"text": "a", "media_type": "application/pdf"}]}, 400,
     "documents[0].media_type"),
    ("/handbook/documents", {"documents": [{"text": "a", "id": "x"}, {"text": "b", "id": "x"}]}, 400,
     "documents[1].id"),
    ("/handbook/documents", {"documents": [{"text": "a"}] * 101}, 400, "documents"),
    ("/nowhere/documents", {"documents": [{"text": "a"}]}, 404, "collection"),
    ("/handbook/search", {}, 400, "query"),
    ("/handbook/search", {"query": ""}, 400, "query"),
    ("/handbook/search", {"query": "a", "top_k": 0}, 400, "top_k"),
    ("/handbook/search", {"query": "a", "top_k": 101}, 400, "top_k"),
    ("/handbook/search", {"query": "a", "mode": "fuzzy"}, 400, "mode"),
    ("/handbook/search", {"query": "a", "mode": "vector"}, 400, "mode"),
    ("/nowhere/search", {"query": "a"}, 404, "collection"),
    ("/%2e%2e%5cup/search", {"query": "a"}, 400, "collection"),
]


@pytest.mark.parametrize(("path", "body", "status", "param"), BAD)
def test_bad_requests(
    http: httpx.Client, name: str, path: str, body: dict[str, Any], status: int, param: str,
) -> None:
    answer = http.post(f"/api/collections{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    assert http.get(f"/api/collections/{name}").json()["documents"] == 0


@pytest.mark.parametrize(("file", "status", "code"), [
    (("a.pdf", b"no pdf at all", "application/pdf"), 400, "invalid_pdf"),
    (("a.pdf", pdf("some text")[:200], "application/pdf"), 400, "invalid_pdf"),
    (("a.pdf", pdf(" "), "application/pdf"), 400, "no_text"),
    (("a.txt", b"\xff\xfa\x00\x80", "text/plain"), 400, "invalid_encoding"),
    (("a.txt", b"", "text/plain"), 400, "no_text"),
    (("a.html", b"<script>1</script>", "text/html"), 400, "no_text"),
    (("a.docx", b"PK", "application/vnd.openxmlformats"), 400, "unsupported_media_type"),
    (("a", b"text", "application/octet-stream"), 400, "unsupported_media_type"),
])
def test_bad_files(http: httpx.Client, name: str, file: Any, status: int, code: str) -> None:
    """None of the files of a request is added where one cannot be read."""
    answer = http.post(f"/api/collections/{name}/documents", files=[
        ("file", ("fine.txt", LEAVE.encode(), "text/plain")), ("file", file)])
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert answer.json()["error"]["param"] == "file[1]"
    assert http.get(f"/api/collections/{name}").json()["documents"] == 0


def test_bad_bodies(http: httpx.Client, name: str) -> None:
    place = f"/api/collections/{name}/documents"
    for content, kind in ((b"", "multipart/form-data"), (b"abc", "multipart/form-data; boundary=x"),
                          (b"--x\r\n\r\nno header", "multipart/form-data; boundary=x"),
                          (b"--x--\r\n", "multipart/form-data; boundary=x"),
                          (b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n',
                           "multipart/form-data; boundary=x; charset=martian"),
                          (b"--x\r\n", "multipart/form-data; boundary=" + "y" * 5000)):
        answer = http.post(place, content=content, headers={"content-type": kind})
        assert answer.status_code == 400, (kind[:60], answer.text)
    assert http.post(place, content=b"a=b", headers={
        "content-type": "application/x-www-form-urlencoded"}).status_code == 415
    answer = http.post(place, data={"title": "a"}, files={"file": ("a.txt", b"text", "text/plain")})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "title"
    large = http.post(place, files={"file": ("a.txt", b"a" * (33 * 1024 * 1024), "text/plain")})
    assert large.status_code == 413


@pytest.mark.parametrize(("collection", "status", "param"), [
    (5, 400, "collection"), ({}, 400, "collection.name"), ({"name": 5}, 400, "collection.name"),
    ({"name": "handbook", "top_k": 0}, 400, "collection.top_k"), ({"name": "handbook", "k": 1}, 400, "collection.k"),
    ({"name": "handbook", "mode": "vector"}, 400, "mode"), ("nowhere", 404, "collection"), ("", 400, "collection.name"),
])
def test_bad_collections_of_chat(http: httpx.Client, name: str, collection: Any, status: int, param: str) -> None:
    answer = http.post("/v1/chat/completions", json={
        "model": "starter-text", "messages": [{"role": "user", "content": "hi"}], "collection": collection})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
