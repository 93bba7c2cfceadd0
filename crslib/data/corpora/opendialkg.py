"""OpenDialKG (Moon et al., OpenDialKG: Explainable Conversational Reasoning with Attention-based Walks over Knowledge
Graphs, ACL 2019; CC BY-NC 4.0): people talk about films and books, and recommend some; also about sports and music.

Reads `opendialkg.csv`: a row per dialogue with `Messages`, a JSON list of messages: `type` (chat or action), `sender`
(user or assistant), `message`; an action `kgwalk/choose_path` has a path of facts, [subject, relation, object]. Titles
are read from these facts: what has a director or a cast is a film, what was written by somebody and is no film in any
dialogue is a book. The columns of ratings are not read.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crslib.data.corpora.base import Contents, Dialogue, conversation
from crslib.data.corpora.reading import Record, content_of, each, mark, name_of, role_of, text_of, title_of, words_of
from crslib.errors import CrsError

_OF_FILMS = frozenset(
    ("starred_actors", "directed_by", "Cinematography", "music_by", "Production company", "Costume design by")
)
_WRITTEN = "written_by"
_KIND = re.compile(r"\s*\((?!\d{4}\))[^()]*\)$")  # "Zodiac (Crime Fiction Film)"
_SHAPE = "CSV with a column Messages, a JSON list of `type`, `sender` and `message`"


def read(path: Path, domain: str) -> Contents:
    """The dialogues about `domain` (movies or books) in file order: those that name an item of it.

    Raises `CrsError` for another domain and a file that is not OpenDialKG's.
    """
    if domain not in ("movies", "books"):
        raise CrsError(f"OpenDialKG has no dialogues about {domain}; give --domain movies or books")
    talks = each(path, "opendialkg", _SHAPE, _messages(path), lambda place, messages: _talk(messages))
    facts = [fact for _, facts in talks for fact in facts]
    films = {subject for subject, relation in facts if relation in _OF_FILMS}
    books = {subject for subject, relation in facts if relation == _WRITTEN} - films
    items = films if domain == "movies" else books
    left_out: Counter[str] = Counter()
    dialogues = []
    for place, (messages, facts) in enumerate(talks, start=1):
        titles = [title for title in dict.fromkeys(subject for subject, _ in facts) if title in items]
        dialogue = _dialogue(name_of(None, place), messages, titles)
        if titles:
            dialogues.append(dialogue)
        else:
            left_out[f"left out, dialogues that name nothing of {domain}"] += 1
    return Contents(tuple(dialogues), False, left_out=left_out)


def _messages(path: Path) -> Iterator[Any]:
    """The lists of messages. Lines inside quotes are kept as they are."""
    csv.field_size_limit(1 << 26)
    try:
        rows = csv.DictReader(io.StringIO(content_of(path), newline=""))
        if "Messages" not in (rows.fieldnames or ()):
            raise CrsError(f"{path} has no column Messages; --as opendialkg reads {_SHAPE}")
        for row in rows:
            yield json.loads(row["Messages"])
    except (csv.Error, ValueError, RecursionError, TypeError) as error:
        raise CrsError(f"{path} is not CSV with JSON in its column Messages ({error}); fetch it again") from None


def _talk(messages: Sequence[Record]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What was said (role, text), and the facts on the chosen paths (subject as a title, relation)."""
    said, facts = [], []
    for message in messages:
        if message["type"] == "chat":
            said.append((role_of(message["sender"]), words_of(message["message"])))
        elif message.get("action_id") == "kgwalk/choose_path":
            for subject, relation, other in message["metadata"]["path"][1]:
                backwards = text_of(relation).startswith("~")
                title = title_of(_KIND.sub("", text_of(other if backwards else subject)))
                facts.append((title, relation.removeprefix("~")))
    return said, facts


def _dialogue(dialogue_id: str, messages: Sequence[tuple[str, str]], titles: Sequence[str]) -> Dialogue:
    longest_first = sorted(titles, key=len, reverse=True)
    return conversation(dialogue_id, [(role, mark(text, longest_first, certain=False)) for role, text in messages])
