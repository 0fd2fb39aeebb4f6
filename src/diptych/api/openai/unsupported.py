"""Fields that would change the answer if they were built, and are refused until they are. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diptych.api.errors import not_supported, shown
from diptych.api.openai.schema import Compatible

Neutral = Callable[[Any], bool]
"""Whether a value asks for nothing beyond what happens anyway."""


def _only(*values: Any) -> Neutral:
    """`True` and 1 are equal in Python, and not the same in JSON."""
    def neutral(value: Any) -> bool:
        return any(bool(value == item) and isinstance(value, bool) == isinstance(item, bool) for item in values)

    return neutral


def _nothing(value: Any) -> bool:
    return value in ([], {}, "")


def _plain_text(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") in ("text",)


def _text_only(value: Any) -> bool:
    return value in (["text"],)


def _never(value: Any) -> bool:
    return False


_TEXT: dict[str, Neutral] = {
    "n": _only(1), "logit_bias": _nothing, "best_of": _only(1), "grammar": _nothing, "json_schema": _nothing,
    "structured_outputs": _nothing, "guided_json": _nothing, "guided_regex": _nothing, "guided_choice": _nothing,
    "guided_grammar": _nothing, "min_tokens": _only(0), "ignore_eos": _only(False), "typical_p": _only(1),
    "mirostat": _only(0), "dry_multiplier": _only(0), "xtc_probability": _only(0), "samplers": _nothing,
    "lora": _nothing, "prompt_embeds": _nothing,
}
CHAT: dict[str, Neutral] = {
    **_TEXT, "tools": _nothing, "functions": _nothing, "tool_choice": _only("none", "auto"),
    "function_call": _only("none", "auto"), "response_format": _plain_text, "logprobs": _only(False),
    "top_logprobs": _only(0), "modalities": _text_only, "audio": _never, "reasoning_effort": _only("none"),
    "verbosity": _only("medium"), "web_search_options": _never, "chat_template": _nothing,
    "chat_template_kwargs": _nothing, "continue_final_message": _only(False), "moderation": _never,
}
COMPLETION: dict[str, Neutral] = {
    **_TEXT, "logprobs": _only(False), "echo": _only(False), "suffix": _nothing, "response_format": _plain_text,
}
MESSAGE: dict[str, Neutral] = {"tool_calls": _nothing, "function_call": _never, "audio": _never, "prefix": _only(False)}
IMAGE: dict[str, Neutral] = {
    "background": _only("auto", "opaque"), "output_format": _only("png"), "output_compression": _only(100),
    "quality": _only("auto", "standard"), "style": _nothing, "image": _nothing, "mask": _nothing,
    "input_fidelity": _nothing, "strength": _never,
}


def refuse_unsupported(body: Compatible, table: dict[str, Neutral], where: str = "") -> None:
    """Raises InvalidRequest, which names the field, for one that is set to more than its neutral value."""
    for name, neutral in table.items():
        value = getattr(body, name) if name in type(body).model_fields else body.more.get(name)
        if value is not None and not neutral(value):
            raise not_supported(f"{where}{name}", shown(value) if not isinstance(value, (dict, list)) else "this field")
