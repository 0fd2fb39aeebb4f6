"""Regular expressions of JSON schemas (ECMA-262) as those that the grammar takes, and patterns for named formats."""

from __future__ import annotations

import re

_DIGIT, _WORD = "0-9", "A-Za-z0-9_"
_SPACE = r"\t\n\x0b\x0c\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
_SETS = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_DOT = r"[^\n\r\x{2028}\x{2029}]"
_QUANTIFIER = re.compile(r"\{[0-9]+(,[0-9]*)?\}")
_CODE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|c([A-Za-z])")
_KEPT = frozenset("nrtfvbBpPk123456789")


def grammar_pattern(pattern: str) -> str:
    """`pattern` with the meaning it has in ECMA-262: ASCII digits and words, a dot that stops at every line end, and
    characters that stand for themselves there and not in the engine's own language."""
    return _Translation(pattern).text()


class _Translation:
    def __init__(self, pattern: str) -> None:
        self._pattern, self._at = pattern, 0

    def text(self) -> str:
        made: list[str] = []
        while self._at < len(self._pattern):
            made.append(self._outside())
        return "".join(made)

    def _take(self) -> str:
        self._at += 1
        return self._pattern[self._at - 1:self._at]

    def _outside(self) -> str:
        char = self._take()
        if char == "\\":
            name = self._pattern[self._at:self._at + 1]
            if name.lower() in _SETS:
                self._at += 1
                return f"[{'^' if name.isupper() else ''}{_SETS[name.lower()]}{_extra(name)}]"
            return self._escape()
        if char == "[":
            return self._set()
        if char == ".":
            return _DOT
        if char in "{}":
            found = _QUANTIFIER.match(self._pattern, self._at - 1) if char == "{" else None
            if found is None:
                return f"\\{char}"
            self._at = found.end()
            return found[0]
        return char

    def _set(self) -> str:
        made = ["["]
        if self._pattern[self._at:self._at + 1] == "^":
            made.append(self._take())
        if self._pattern[self._at:self._at + 1] == "]":  # the empty set, or its complement
            self._at += 1
            return r"[^\x{0}-\x{10ffff}]" if len(made) == 1 else r"[\x{0}-\x{10ffff}]"
        before = ""
        while self._at < len(self._pattern):
            char = self._take()
            if char == "]":
                return "".join([*made, "]"])
            item = self._in_set(char, before)
            made.append(item)
            before = "set" if char == "\\" and item.startswith((_DIGIT, _WORD, _SPACE[:4])) else char
        return "".join(made)

    def _in_set(self, char: str, before: str) -> str:
        if char == "\\":
            name = self._pattern[self._at:self._at + 1]
            if name in _SETS:
                self._at += 1
                return _SETS[name]
            if name == "b":
                self._at += 1
                return r"\x08"
            if name in "DWS":
                return "\\" + self._take()
            return self._escape()
        if char == "-":
            after = self._pattern[self._at:self._at + 2]
            literal = before in ("", "set", "^") or after[:1] == "]" or (after[:1] == "\\" and after[1:] in "dwsDWS")
            return r"\-" if literal else "-"
        return f"\\{char}" if char in "[&~" else char

    def _escape(self) -> str:
        code = _CODE.match(self._pattern, self._at)
        if code is not None:
            self._at = code.end()
            number = ord(code[4].upper()) - 64 if code[4] else int(code[1] or code[2] or code[3], 16)
            return f"\\x{{{number:x}}}"
        char = self._take()
        if char == "0":
            return r"\x00"
        if char in _KEPT:
            return f"\\{char}"
        return f"\\x{{{ord(char):x}}}" if char and not char.isalnum() else char


def _extra(name: str) -> str:
    """These are white space to one engine and not to another: in neither set."""
    return r"\x{1c}-\x{1f}\x{85}\x{feff}" if name == "S" else ""


_LEAP = "(?:19|20)(?:0[48]|[2468][048]|[13579][26])|2000"
_DATE = (r"(?:(?:19|20)[0-9]{2}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
         rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:{_LEAP})-02-29)")
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_HOST = r"[A-Za-z0-9]{1,20}(?:\.[A-Za-z][A-Za-z0-9]{0,20}){0,5}"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_SEGMENT = r"[A-Za-z0-9._~-]"
_TAIL = rf"(?:/{_SEGMENT}*)*(?:\?[A-Za-z0-9._~=&/-]*)?(?:#[A-Za-z0-9._~/-]*)?"
_URI = rf"[a-z][a-z0-9+.-]{{1,19}}://{_HOST}(?::[1-9][0-9]{{0,3}})?{_TAIL}"
_POINTER = r"(?:/(?:[^\x{0}-\x{1f}/~]|~[01])*)*"
_SPAN = "(?:[1-9][0-9]{0,5}|0)"
_DURATION = (rf"P(?:{_SPAN}W|{_SPAN}Y(?:{_SPAN}M(?:{_SPAN}D)?)?(?:T{_SPAN}H)?|{_SPAN}M(?:{_SPAN}D)?|"
             rf"{_SPAN}D(?:T{_SPAN}H(?:{_SPAN}M(?:{_SPAN}S)?)?)?|T(?:{_SPAN}H(?:{_SPAN}M(?:{_SPAN}S)?)?|"
             rf"{_SPAN}M(?:{_SPAN}S)?|{_SPAN}S))")
FORMATS = {
    "date": _DATE, "time": _CLOCK, "date-time": f"{_DATE}T{_CLOCK}", "duration": _DURATION,
    "email": rf"[A-Za-z0-9](?:[.]?[A-Za-z0-9_+-]){{0,40}}@{_HOST}", "hostname": _HOST,
    "idn-email": rf"[A-Za-z0-9](?:[.]?[A-Za-z0-9_+-]){{0,40}}@{_HOST}", "idn-hostname": _HOST,
    "ipv4": rf"{_OCTET}(?:\.{_OCTET}){{3}}",
    "ipv6": "(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|::(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,5})?",
    "uri": _URI, "iri": _URI, "uri-reference": rf"(?:{_URI}|/?(?:{_SEGMENT}+/?)*(?:#[A-Za-z0-9._~/-]*)?)",
    "iri-reference": rf"(?:{_URI}|/?(?:{_SEGMENT}+/?)*(?:#[A-Za-z0-9._~/-]*)?)",
    "uri-template": rf"(?:{_URI}|/?(?:(?:{_SEGMENT}|\{{[a-z][a-z0-9_]*\}})+/?)*)",
    "uuid": "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "json-pointer": _POINTER, "relative-json-pointer": rf"(?:0|[1-9][0-9]{{0,5}})(?:#|{_POINTER})",
}
"""What a named format is held to: a part of the texts that it allows, years from 1900 to 2099, ASCII names. `regex` is
left to the check at the end; all other names are notes, which say nothing about validity."""
CHECKED_FORMATS = frozenset({"regex"})
