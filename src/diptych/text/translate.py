"""What a model is told to translate a text. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from diptych.core.chat import Message
from diptych.core.specs import ChatSpec, Sampling


def translation(
    model: str, text: str, source: str | None, target: str, glossary: Mapping[str, str], keep_formatting: bool,
) -> ChatSpec:
    """One answer that is nothing but the translation, always the likeliest one. `source` None: the model finds out.
    Only entries of the glossary that the text has are told."""
    begin = f"Translate the text from {source} to {target}." if source else f"Translate the text to {target}."
    told = [begin, "Answer with the translation only, without notes or quotes around it."]
    if keep_formatting:
        told.append("Keep line breaks, Markdown, HTML tags, placeholders and URLs as they are.")
    lowered = text.lower()
    fixed = [f"- {word}: {wanted}" for word, wanted in glossary.items() if word.lower() in lowered]
    if fixed:
        told.append("\n".join(["Use these translations:", *fixed]))
    messages = (Message(role="system", content="\n".join(told)), Message(role="user", content=text))
    return ChatSpec(model=model, messages=messages, sampling=Sampling(temperature=0.0))
