"""`python -m diptych.text.grounding.pdf`: a PDF on standard input, `{"text", "title"}` or `{"fault"}` on its output.

Runs in a process of its own with bounded memory and time: the file may be anything.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from typing import Any

from diptych.text.grounding.files import MAX_CHARACTERS, PDF_BYTES, PDF_SECONDS


def read(data: bytes) -> dict[str, Any]:
    """The pages' text, an empty line between them, and the title."""
    try:
        from pypdf import PdfReader
    except ImportError:
        return {"missing": "pypdf"}
    logging.disable(logging.CRITICAL)
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            return {"fault": "it is locked by a password"}
        pages, size = [], 0
        for page in reader.pages:
            pages.append(page.extract_text())
            size += len(pages[-1])
            if size > MAX_CHARACTERS:
                return {"fault": f"it has more than {MAX_CHARACTERS} characters"}
        title = ""
        with contextlib.suppress(Exception):
            title = str((reader.metadata and reader.metadata.title) or "")
    except MemoryError:
        return {"fault": "it takes too much memory"}
    except Exception as error:  # whatever a damaged file makes of the parser
        return {"fault": f"{type(error).__name__}: {str(error)[:200]}"}
    return {"text": "\n\n".join(pages), "title": title}


def _bounded() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (PDF_BYTES, PDF_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (int(PDF_SECONDS), int(PDF_SECONDS) + 1))


if __name__ == "__main__":
    _bounded()
    found = read(sys.stdin.buffer.read())
    sys.stdout.write(json.dumps({name: value.encode("utf-8", "replace").decode() for name, value in found.items()}))
