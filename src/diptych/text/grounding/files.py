"""The text of a file that somebody sends: plain text, Markdown, HTML, PDF."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser

from diptych.core.errors import InvalidRequest, TooLarge, Unavailable

MAX_CHARACTERS = 20_000_000
"""Of the text of one document."""
PDF_SECONDS = 60.0
PDF_BYTES = 2 * 1024**3
"""Memory that reading a PDF may take."""
KINDS = {"text/plain": "txt", "text/markdown": "md", "text/html": "html", "application/xhtml+xml": "html",
         "application/pdf": "pdf"}
ENDINGS = {"txt": "text/plain", "text": "text/plain", "md": "text/markdown", "markdown": "text/markdown",
           "html": "text/html", "htm": "text/html", "xhtml": "application/xhtml+xml", "pdf": "application/pdf"}
_SKIPPED = frozenset({"script", "style", "noscript", "template", "svg", "head", "iframe", "object", "select",
                      "textarea"})
_BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "dd", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer",
    "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section",
    "table", "tr", "ul"))


@dataclass(frozen=True)
class Extracted:
    text: str
    title: str = ""


def media_type_of(given: str, name: str, where: str) -> str:
    """What a file is by its declared type or, where that says nothing, by its name's ending. Raises InvalidRequest."""
    declared = given.partition(";")[0].strip().lower()
    if declared in KINDS:
        return declared
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    if declared in ("", "application/octet-stream", "text/x-markdown", "binary/octet-stream") and ending in ENDINGS:
        return ENDINGS[ending]
    raise InvalidRequest(
        f"{where}: a file of the type {given[:80]!a} named {name[:80]!a} is not read; there are: {', '.join(KINDS)}",
        param=where, code="unsupported_media_type")


def extracted(data: bytes, media_type: str, where: str) -> Extracted:
    """The text of a file. Blocks: for a PDF up to `PDF_SECONDS`.

    Raises:
        InvalidRequest: it has no text, or is not what it is said to be.
        TooLarge: the text is over `MAX_CHARACTERS`.
    """
    kind = KINDS[media_type]
    if kind == "pdf":
        found = _pdf(data, where)
    else:
        text = _decoded(data, where)
        found = from_html(text) if kind == "html" else Extracted(text)
    return checked(found, where)


def checked(found: Extracted, where: str) -> Extracted:
    """With line ends as `\\n`, no NUL. Raises as `extracted`."""
    text = found.text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    if not text.strip():
        raise InvalidRequest(f"{where} has no text (pictures of pages are not read)", param=where, code="no_text")
    if len(text) > MAX_CHARACTERS:
        raise TooLarge(f"{where} has {len(text)} characters, at most {MAX_CHARACTERS} are taken", param=where)
    return Extracted(text, " ".join(found.title.replace("\0", " ").split()))


def from_html(text: str) -> Extracted:
    """What a reader sees, with blocks on lines of their own."""
    reader = _Html()
    reader.feed(text)
    reader.close()
    lines = re.sub(r"[ \t\f\v]*\n[ \t\f\v]*", "\n", "".join(reader.parts))
    return Extracted(re.sub(r"\n{3,}", "\n\n", lines).strip(), "".join(reader.title))


class _Html(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self._skipping: list[str] = []
        self._titled = self._kept = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._titled = True
        elif tag in _SKIPPED:
            self._skipping.append(tag)
        elif tag == "body":
            self._skipping.clear()  # a head that was never closed
        elif tag in _BLOCKS or tag == "br":
            self.parts.append("\n" if tag in ("br", "li", "tr") else "\n\n")
        elif tag in ("td", "th"):
            self.parts.append("\t")
        self._kept = tag == "pre" or (self._kept and tag != "pre")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._titled = False
        elif tag in self._skipping:
            del self._skipping[self._skipping.index(tag):]
        elif tag in _BLOCKS and tag not in ("li", "tr"):
            self.parts.append("\n\n")
        if tag == "pre":
            self._kept = False

    def handle_data(self, data: str) -> None:
        if self._titled:
            self.title.append(data)
        elif not self._skipping:
            self.parts.append(data if self._kept else re.sub(r"\s+", " ", data))


def _decoded(data: bytes, where: str) -> str:
    """UTF-8, or UTF-16 with its mark."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{where} is no text in UTF-8 (byte {error.start})", param=where,
                             code="invalid_encoding") from None


def _pdf(data: bytes, where: str) -> Extracted:
    """Read in a process of its own, which a hostile file may keep busy or fill, for a while."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "diptych.text.grounding.pdf"], input=data, capture_output=True, timeout=PDF_SECONDS)
    except subprocess.TimeoutExpired:
        raise InvalidRequest(f"{where}: this PDF takes over {PDF_SECONDS:g} s to read", param=where,
                             code="invalid_pdf") from None
    except OSError as error:
        raise Unavailable(f"no process could be started to read a PDF: {error.strerror}") from None
    try:
        told = json.loads(done.stdout)
    except ValueError:
        raise InvalidRequest(f"{where}: this PDF cannot be read (it is damaged, or needs over "
                             f"{PDF_BYTES // 1024**3} GiB)", param=where, code="invalid_pdf") from None
    if "missing" in told:
        raise Unavailable("PDFs cannot be read here: install diptych[text]", code="not_installed")
    if "fault" in told:
        raise InvalidRequest(f"{where}: this PDF cannot be read: {told['fault']}", param=where, code="invalid_pdf")
    return Extracted(told["text"], told["title"])
