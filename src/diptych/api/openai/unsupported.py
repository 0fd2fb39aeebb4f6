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


def _text_only(value: Any) -> bool:
    return value in (["text"],)


def _never(value: Any) -> bool:
    return False


_TEXT: dict[str, Neutral] = {
    "mirostat": _only(0), "xtc_probability": _only(0), "samplers": _nothing, "prompt_embeds": _nothing,
    "top_n_sigma": _only(-1, 0), "dynatemp_range": _only(0), "top_a": _only(0), "tfs_z": _only(1),
    "bad_words": _nothing, "stop_token_ids": _nothing, "allowed_token_ids": _nothing, "use_beam_search": _only(False),
    "prompt_logprobs": _nothing, "guided_decoding_backend": _only("auto", "llguidance", "guidance"),
    "truncate_prompt_tokens": _never, "skip_special_tokens": _only(True), "n_predict": _only(-1), "n_probs": _only(0),
    "provider": _nothing, "plugins": _nothing, "transforms": _nothing,
}
CHAT: dict[str, Neutral] = {
    **_TEXT, "best_of": _only(1), "modalities": _text_only, "audio": _never, "verbosity": _only("medium"),
    "web_search_options": _never, "chat_template": _nothing, "moderation": _never,
    "add_generation_prompt": _only(True), "echo": _only(False), "prompt_mode": _never,
    "reasoning": _nothing, "thinking": _nothing,
}
COMPLETION: dict[str, Neutral] = {**_TEXT, "tools": _nothing, "top_logprobs": _only(0)}
MESSAGE: dict[str, Neutral] = {"audio": _never}
IMAGE: dict[str, Neutral] = {
    "background": _only("auto", "opaque"), "output_format": _only("png"), "output_compression": _only(100),
    "quality": _only("auto", "standard"), "style": _nothing, "image": _nothing, "mask": _nothing,
    "input_fidelity": _nothing, "strength": _never,
}
EDIT: dict[str, Neutral] = {
    "background": _only("auto", "opaque"), "output_format": _only("png"), "output_compression": _only("100"),
    "quality": _only("auto", "standard"), "input_fidelity": _only("low"), "frame_count": _only("1"),
    "frame_duration_ms": _nothing, "markup": _nothing, "svg": _nothing, "complexity": _nothing,
}
"""Of edits and variations; their fields come as text."""


def refuse_unsupported(body: Compatible, table: dict[str, Neutral], where: str = "") -> None:
    """Raises InvalidRequest, which names the field, for one that is set to more than its neutral value."""
    for name, neutral in table.items():
        value = getattr(body, name) if name in type(body).model_fields else body.more.get(name)
        if value is not None and not neutral(value):
            raise not_supported(f"{where}{name}", shown(value) if not isinstance(value, (dict, list)) else "this field")
