"""The conversations of He et al., Large Language Models as Zero-Shot Conversational Recommenders (CIKM 2023): requests
for films on Reddit, research only, and ReDial and INSPIRED in the same form.

Reads JSON lines (`test_raw.jsonl`, `train_data_processed.jsonl`), a line per utterance: `dialog_id`, `context`, the
utterances before it, `resp`, the utterance, `is_user`, `rec`, the ids of the items in it, and `entity_name`. The names
of the items stand in `entity2id.json` beside the file: `Title (Year)` or an address of DBpedia by id; without it no
title is marked. Who said the utterances of a context that have no line of their own is read from the order: the parties
take turns.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crslib.data.corpora.base import Contents, conversation
from crslib.data.corpora.reading import Record, content_of, each, json_records, mark, name_of, resource_title, words_of
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError

NAMES = "entity2id.json"
_SHAPE = "lines with `dialog_id`, `context`, `resp` and `is_user`"
_Said = tuple[str, str, list[str]]  # role, text, titles in it


def read(path: Path) -> Contents:
    """The dialogues in file order. Raises `CrsError` for lines of another shape and names that cannot be read."""
    names = _names(path.parent / NAMES)
    lines = json_records(path)
    left_out: Counter[str] = Counter()
    if not names:
        left_out[f"no {NAMES} beside the file, so titles are looked for in the texts of lines"] = len(lines)
    talks: dict[str, list[_Said]] = {}

    def follow(place: int, line: Record) -> None:
        talk = talks.setdefault(name_of(line["dialog_id"], place), [])
        context = [text for text in map(words_of, line["context"]) if text]
        role = USER if line["is_user"] else RECOMMENDER
        unsaid = context[len(talk) :]
        for before, text in enumerate(unsaid):
            talk.append((_in_turn(role, len(unsaid) - before), text, []))
            left_out["utterances without a line of their own, whose speaker is read from the order"] += 1
        talk.append((role, words_of(line["resp"]), [names[str(item)] for item in line["rec"] if str(item) in names]))
        if not talk[-1][1]:
            talk.pop()

    each(path, "cikm", _SHAPE, lines, follow)
    dialogues = [conversation(dialogue_id, _marked(talk, left_out)) for dialogue_id, talk in talks.items()]
    return Contents(tuple(dialogues), bool(names), left_out=left_out)


def _in_turn(role: str, distance: int) -> str:
    """Who speaks `distance` turns before `role` does."""
    other = USER if role == RECOMMENDER else RECOMMENDER
    return other if distance % 2 else role


def _marked(talk: Sequence[_Said], left_out: Counter[str]) -> list[tuple[str, str]]:
    messages = []
    for role, text, titles in talk:
        marked = mark(text, titles)
        missing = len(titles) - len(utterances.mentions(marked))
        left_out["left out, titles that are not in their text as they are spelt"] += missing
        messages.append((role, marked))
    return messages


def _names(path: Path) -> dict[str, str]:
    """Titles by id, from a mapping of names to ids; empty without the file."""
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(content_of(path))
        return {str(item): title for name, item in content.items() if (title := resource_title(name))}
    except (ValueError, RecursionError, AttributeError):
        raise CrsError(f"{path} does not map names to ids; fetch it again, or remove it") from None
