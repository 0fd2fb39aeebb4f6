"""How passages are put before a model, and the form of an answer that quotes them. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from diptych.core.chat import Message, OutputFormat, TextPart
from diptych.text.grounding.sources import Passage

_ANSWER = "Answer with what these passages say. If they do not say it, say that you do not know."
_NOTHING = "No passages were found that are about this. Say that you do not know."
_MARK = "Behind each sentence write the number of the passage it is from, like this: [1]"
_QUOTE = ('Support what you say by quoting the passages word by word, with the number of the passage behind each '
          'quote, like this: "words of the passage" [1]')
FIELD = "citations"
SHORTEST, LONGEST, MOST = 12, 400, 6
"""Characters of a quote, and quotes in an answer."""
PROSE = 200
"""Characters before a quote, and after the last."""
_CHUNK = re.compile(r"\w+|\s+|[^\w\s]")


def with_passages(messages: Sequence[Message], passages: Sequence[Passage], mode: str, marked: bool) -> list[Message]:
    """The conversation with the passages before its last question, numbered from 1; where nobody asks, as a message of
    the system. Without passages the model is told so."""
    shown = "\n\n".join(f"[{number}] {_titled(passage)}{for_quotes(passage.text) if mode == 'quote' else passage.text}"
                        for number, passage in enumerate(passages, 1))
    asked = [_ANSWER, *([_QUOTE] if mode == "quote" else [_MARK] if marked else [])]
    text = f"Passages:\n\n{shown}\n\n{' '.join(asked)}" if passages else _NOTHING
    place = next((index for index in range(len(messages) - 1, -1, -1) if messages[index].role == "user"), None)
    if place is None:
        return [Message(role="system", content=text), *messages]
    question = messages[place]
    content = question.content
    made: object = f"{text}\n\n{content}" if isinstance(content, str) else (TextPart(text=f"{text}\n\n"), *content)
    return [*messages[:place], question.model_copy(update={"content": made}), *messages[place + 1:]]


def quote_format(passages: Sequence[Passage]) -> OutputFormat:
    """A form in which all that stands between quotation marks is a run of words of the passage whose number follows.
    Without passages there are no quotation marks."""
    if not passages:
        return OutputFormat(kind="lark", value=f'start: /[^\\[\\]"]{{1,{PROSE}}}/\n', field=FIELD)
    rules = [f"start: part{{1,{MOST}}} end?", 'part: PROSE? "\\"" quote',
             f'PROSE: /[^\\[\\]"]{{1,{PROSE}}}/', f'end: /[^\\[\\]"]{{1,{PROSE}}}/']
    names = []
    for number, passage in enumerate(passages, 1):
        text = for_quotes(passage.text)
        least = min(SHORTEST, len(text))
        chunks = json.dumps({"substring_chunks": _CHUNK.findall(text)})
        names.append(f'Q{number} "\\" [{number}]"')
        rules += [f"S{number}: %regex {chunks}", f"N{number}: /(?s:\\S(.{{{max(0, least - 2)},{LONGEST - 2}}}\\S)?)/",
                  f"Q{number}: S{number} & N{number}"]
    rules.insert(2, f"quote: {' | '.join(names)}")
    return OutputFormat(kind="lark", value="\n".join(rules) + "\n", field=FIELD)


def for_quotes(text: str) -> str:
    """One line, with single quotation marks: what can stand between double ones."""
    return " ".join(text.replace('"', "'").split())


def _titled(passage: Passage) -> str:
    return f"{' '.join(passage.title.split())[:200]}\n" if passage.title else ""
