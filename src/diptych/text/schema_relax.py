"""A JSON schema in the words that the grammar knows. What these cannot tell is left out, and named."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from diptych.text.grammar import fault_of
from diptych.text.schema_patterns import CHECKED_FORMATS, FORMATS, grammar_pattern

KEPT = frozenset({
    "type", "enum", "const", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf", "required", "minItems", "maxItems", "minProperties", "maxProperties"})
CHECKED = frozenset({
    "not", "if", "uniqueItems", "contains", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies",
    "unevaluatedProperties", "unevaluatedItems"})
"""Keywords that only the check at the end knows."""
CONTENT = frozenset({"contentEncoding", "contentMediaType"})
"""These say something about validity in drafts 6 and 7 only."""
REFUSED = frozenset({"$dynamicRef", "$recursiveRef"})
MAX_TARGETS = 5000
_SINCE = {"const": 6, "contains": 6, "propertyNames": 6, "if": 7, "prefixItems": 2020, "dependentRequired": 2019,
          "dependentSchemas": 2019, "unevaluatedProperties": 2019, "unevaluatedItems": 2019, "$dynamicRef": 2020,
          "$recursiveRef": 2019}
Path = tuple[Any, ...]


class Unsupported(Exception):
    """Something that can be neither held nor checked, and where it is."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


def relaxed(schema: Any, draft: int, without: frozenset[str] = frozenset()) -> tuple[Any, tuple[str, ...]]:
    """`(schema for the grammar, keywords left out of it)`. `draft` is 4, 6, 7, 2019 or 2020; `without` are more
    keywords to leave out.

    Raises:
        Unsupported: references to other documents, dynamic references.
    """
    if isinstance(schema, bool):
        return schema, ()
    walk = _Walk(schema, draft, without)
    return walk.root(), tuple(walk.unheld)


class _Walk:
    def __init__(self, document: dict[str, Any], draft: int, without: frozenset[str]) -> None:
        self._document, self._draft, self._without = document, draft, without
        self._names: dict[str, Path] = {}
        self._bases: dict[Path, str] = {}
        self._targets: dict[Path, str] = {}
        self._waiting: list[Path] = []
        self.unheld: list[str] = []
        self._collect(document, (), "")

    def root(self) -> Any:
        made = self._schema(self._document, ())
        found: dict[str, Any] = {}
        while self._waiting:
            path = self._waiting.pop()
            found[self._targets[path]] = self._schema(self._at(path), path)
        if found and isinstance(made, dict):
            made["$defs"] = found
        return made

    def _collect(self, value: Any, path: Path, base: str) -> None:
        """Names of parts: `$id` and anchors."""
        if isinstance(value, dict):
            own = value.get("id" if self._draft == 4 else "$id")
            if isinstance(own, str) and not (self._draft <= 7 and "$ref" in value) and path[-1:] not in (
                    ("properties",), ("enum",), ("const",)):
                base = urljoin(base, own)
                self._names.setdefault(base.rstrip("#"), path)
                self._bases[path] = base
            for anchor in (value.get("$anchor"), value.get("$dynamicAnchor")):
                if isinstance(anchor, str):
                    self._names.setdefault(f"{urldefrag(base)[0]}#{anchor}", path)
        items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if isinstance(item, (dict, list)) and key not in ("enum", "const", "default", "examples"):
                self._collect(item, (*path, key), base)

    def _base(self, path: Path) -> str:
        for length in range(len(path), -1, -1):
            if path[:length] in self._bases:
                return self._bases[path[:length]]
        return ""

    def _at(self, path: Path) -> Any:
        value: Any = self._document
        for part in path:
            value = value[part]
        return value

    def _schema(self, schema: Any, path: Path) -> Any:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise Unsupported("a schema must be an object, true or false", path)
        if "$ref" in schema and (self._draft <= 7 or len(schema) == 1):
            return {"$ref": self._reference(schema["$ref"], path)}
        self._refuse(schema, path)
        made: dict[str, Any] = {key: _whole(key, schema[key]) for key in schema
                                if key in KEPT and key not in self._without and self._known(key)}
        if "$ref" in schema:
            made["$ref"] = self._reference(schema["$ref"], path)
        self._bounds(schema, made)
        self._objects(schema, made, path)
        self._lists(schema, made, path)
        for key in ("allOf", "anyOf", "oneOf"):
            if key in schema:
                made[key] = [self._schema(item, (*path, key, index)) for index, item in enumerate(schema[key])]
        self._texts(schema, made)
        self._note(schema, made)
        return made

    def _known(self, key: str) -> bool:
        return self._draft >= _SINCE.get(key, 0)

    def _refuse(self, schema: dict[str, Any], path: Path) -> None:
        for key in REFUSED & schema.keys():
            if self._known(key):
                raise Unsupported(f"{key} is not supported; write the schema without dynamic references", (*path, key))
        for key in ("not", "if", "then", "else", "contains", "propertyNames"):
            if isinstance(schema.get(key), dict):
                self._check_references(schema[key], (*path, key))

    def _check_references(self, value: Any, path: Path) -> None:
        """References in parts that only the check reads: they must be there too."""
        if isinstance(value, dict) and isinstance(value.get("$ref"), str):
            self._resolve(value["$ref"], path)
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(item, (dict, list)):
                self._check_references(item, (*path, key))

    def _bounds(self, schema: dict[str, Any], made: dict[str, Any]) -> None:
        """Draft 4 says with a flag whether a bound is exclusive."""
        for flag, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if isinstance(made.get(flag), bool) and made.pop(flag) and bound in made:
                made[flag] = made.pop(bound)

    def _objects(self, schema: dict[str, Any], made: dict[str, Any], path: Path) -> None:
        if "properties" in schema:
            made["properties"] = {name: self._schema(item, (*path, "properties", name))
                                  for name, item in schema["properties"].items()}
        if "additionalProperties" in schema:
            made["additionalProperties"] = self._schema(
                schema["additionalProperties"], (*path, "additionalProperties"))
        patterns = {}
        for pattern, item in schema.get("patternProperties", {}).items():
            held = held_pattern(pattern)
            if held is None:
                if made.get("additionalProperties") is not False:
                    self.unheld.append("patternProperties")
                self._schema(item, (*path, "patternProperties", pattern))
            else:
                patterns[held] = self._schema(item, (*path, "patternProperties", pattern))
        if patterns and "patternProperties" not in self._without:
            made["patternProperties"] = patterns

    def _lists(self, schema: dict[str, Any], made: dict[str, Any], path: Path) -> None:
        first, rest = schema.get("prefixItems") if self._draft >= 2020 else None, schema.get("items")
        key = "items"
        if isinstance(rest, list):
            first, rest, key = rest, schema.get("additionalItems"), "additionalItems"
        if first is not None:
            name = "prefixItems" if key == "items" else "items"
            made["prefixItems"] = [self._schema(item, (*path, name, index)) for index, item in enumerate(first)]
        if rest is not None:
            made["items"] = self._schema(rest, (*path, key))

    def _texts(self, schema: dict[str, Any], made: dict[str, Any]) -> None:
        patterns = []
        if isinstance(schema.get("pattern"), str):
            held = held_pattern(schema["pattern"])
            if held is None:
                self.unheld.append("pattern")
            else:
                patterns.append(held)
        name = None if "format" in self._without else schema.get("format")
        if isinstance(name, str) and name in FORMATS:
            patterns.append(f"^(?:{FORMATS[name]})$")
        elif name in CHECKED_FORMATS:
            self.unheld.append("format")
        if patterns:
            made["pattern"] = patterns[0]
        if len(patterns) > 1:
            made["allOf"] = [*made.get("allOf", []), *({"pattern": pattern} for pattern in patterns[1:])]

    def _note(self, schema: dict[str, Any], made: dict[str, Any]) -> None:
        for key in CONTENT & schema.keys() if self._draft in (6, 7) else ():
            self.unheld.append(key)
        for key in CHECKED & schema.keys():
            if self._known(key) and not _says_nothing(key, schema):
                self.unheld.append(key)

    def _reference(self, ref: Any, path: Path) -> str:
        target = self._resolve(ref, path)
        if target not in self._targets:
            if len(self._targets) >= MAX_TARGETS:
                raise Unsupported(f"more than {MAX_TARGETS} parts are referred to", path)
            self._targets[target] = f"r{len(self._targets)}"
            self._waiting.append(target)
        return f"#/$defs/{self._targets[target]}"

    def _resolve(self, ref: Any, path: Path) -> Path:
        if not isinstance(ref, str):
            raise Unsupported("$ref must be text", (*path, "$ref"))
        whole = urljoin(self._base(path), ref)
        document, fragment = urldefrag(whole)
        if whole.rstrip("#") in self._names:
            return self._names[whole.rstrip("#")]
        if document and document not in self._names and document != urldefrag(self._base(()))[0]:
            raise Unsupported(f"$ref is {ref[:100]!a}, which is another document; nothing is fetched: put it into "
                              "$defs", (*path, "$ref"))
        start = self._names.get(document, ())
        if fragment and not fragment.startswith("/"):
            raise Unsupported(f"$ref is {ref[:100]!a}, but there is no such anchor", (*path, "$ref"))
        return self._pointed(ref, fragment, start, path)

    def _pointed(self, ref: str, fragment: str, start: Path, path: Path) -> Path:
        value, made = self._at(start), list(start)
        for part in fragment.split("/")[1:]:
            key: Any = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(value, list) and key.isdecimal():
                key = int(key)
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                raise Unsupported(f"$ref is {ref[:100]!a}, but there is no such place", (*path, "$ref")) from None
            made.append(key)
        return tuple(made)


def _whole(key: str, value: Any) -> Any:
    """2.0 is a count too."""
    return int(value) if isinstance(value, float) and key.startswith(("min", "max")) and value.is_integer() else value


def _says_nothing(key: str, schema: dict[str, Any]) -> bool:
    value = schema[key]
    if key == "uniqueItems":
        return value is not True or schema.get("maxItems", 2) <= 1
    if key == "if":
        return "then" not in schema and "else" not in schema
    if key in ("propertyNames", "unevaluatedProperties", "unevaluatedItems"):
        return value is True or value == {}
    return key in ("dependentRequired", "dependentSchemas", "dependencies") and not value


@lru_cache(maxsize=4096)
def held_pattern(pattern: str) -> str | None:
    """A pattern in the grammar's language; None where it cannot be told there (look-around, back-references)."""
    made = grammar_pattern(pattern)
    return made if fault_of("start: %json " + json.dumps({"type": "string", "pattern": made})) is None else None
