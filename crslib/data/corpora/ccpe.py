"""CCPE-M (Radlinski et al., Coached Conversational Preference Elicitation, SIGDIAL 2019; CC BY 4.0): people are asked
what films they like, and why. Nothing is recommended.

Reads `data.json`: a list of conversations with `conversationId` and `utterances`, each with `speaker` (USER or
ASSISTANT), `text` and `segments`. Segments annotated as `ENTITY_NAME` of a `MOVIE_OR_SERIES` are titles, as they were
spoken, without years. Preferences are annotated as words, not as marks: they are not read.
"""

from collections import Counter
from pathlib import Path

from crslib.data.corpora.base import Contents, Dialogue, conversation
from crslib.data.corpora.reading import Record, each, json_records, name_of, role_of, text_of, title_of, words_of
from crslib.dialogue import utterances

_SHAPE = "data.json, a list of conversations with `conversationId` and `utterances` of `speaker` and `text`"


def read(path: Path) -> Contents:
    """The dialogues in file order. Raises `CrsError` when it is not CCPE-M's file."""
    left_out: Counter[str] = Counter()
    records = json_records(path)
    dialogues = each(path, "ccpe", _SHAPE, records, lambda place, record: _dialogue(place, record, left_out))
    return Contents(tuple(dialogues), True, left_out=left_out)


def _dialogue(place: int, record: Record, left_out: Counter[str]) -> Dialogue:
    spoken = sorted(record["utterances"], key=lambda utterance: int(utterance.get("index", 0)))
    messages = [(role_of(utterance["speaker"]), _text(utterance, left_out)) for utterance in spoken]
    return conversation(name_of(record.get("conversationId"), place), messages)


def _text(utterance: Record, left_out: Counter[str]) -> str:
    """The text with its titles in brackets: what is said between them is cleaned by itself, so that places hold."""
    text, parts, after = text_of(utterance["text"]), [], 0
    for start, end in sorted({_span(segment) for segment in utterance.get("segments") or () if _is_title(segment)}):
        title = title_of(text[start:end])
        if start < after or not title:
            left_out["left out, titles annotated inside another"] += 1
            continue
        parts += [_cleaned(text[after:start]), utterances.mention(title)]
        after = end
    return utterances.one_line("".join([*parts, _cleaned(text[after:])]))


def _cleaned(text: str) -> str:
    """`words_of`, with the blanks at both ends."""
    return words_of(f"|{text}|")[1:-1]


def _is_title(segment: Record) -> bool:
    return any(
        kind.get("annotationType") == "ENTITY_NAME" and kind.get("entityType") == "MOVIE_OR_SERIES"
        for kind in segment.get("annotations") or ()
    )


def _span(segment: Record) -> tuple[int, int]:
    return int(segment["startIndex"]), int(segment["endIndex"])
