"""What a recommender or user of one's own is given and what it may answer: plain data, alike in Python and over HTTP.

Text is given as people read it, and what was named in it stands in `items`. Titles of an answer need no brackets.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from numbers import Integral
from typing import Any
from uuid import uuid4

from crslib.agents.base import Finish, Reply, Sent
from crslib.data.catalog import Catalog
from crslib.data.titles import split_year
from crslib.dialogue import utterances
from crslib.dialogue.utterances import USER
from crslib.dialogue.views import UserView, View
from crslib.errors import CrsError
from crslib.identity import derive_seed

Linked = Callable[[str], str]
"""Puts bare titles of an utterance in `[[…]]`, as the catalogue writes them."""
MAX_WORDS, MAX_CHARACTERS = 500, 5_000  # of an utterance; people write 8 words, and whoever writes a page is broken
MAX_ITEMS = 50
_FIELDS = ("text", "items", "leave")


class Names:
    """What dialogues are called where somebody's own program hears of them. The ids of a run name people, whose ratings
    a recommender could look up; a name here is drawn and says nothing."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def of(self, dialogue_id: str) -> str:
        """The name of a dialogue, the same until it is released."""
        return self._names.setdefault(dialogue_id, uuid4().hex)

    def seed(self, dialogue_id: str, turn: int) -> int:
        """A seed for an utterance, from the drawn name alone: a seed of the run's would tell the dialogue's id."""
        return derive_seed(0, self.of(dialogue_id), turn)

    def release(self, dialogue_id: str) -> str | None:
        """Forgets a dialogue that has ended; its name, if it had one."""
        return self._names.pop(dialogue_id, None)


# ── given ───────────────────────────────────────────────────────────────────────────────────────────────────────


def turns(view: View) -> list[dict[str, Any]]:
    """What both parties said: `role`, `text` as people read it, and `items`, each with `item_id` and `title`.

    `item_id` is None for a title that is not in the catalogue.
    """
    return [
        {
            "role": turn["role"],
            "text": utterances.plain(turn["text"]),
            "items": [{"item_id": item["item_id"], "title": item["title"]} for item in turn["items"]],
        }
        for turn in view.turns
    ]


def knowledge(view: UserView) -> dict[str, Any]:
    """What the user privately knows: `summary`, `attributes` (texts), `wishes` (kinds, decade, person, maker,
    attributes), `loved` and `disliked` (names of items) and `notes` on the items just named (`title`, `seen`,
    `liked`)."""
    known = view.knowledge
    return {
        "summary": known.summary,
        "attributes": known.attributes,
        "wishes": {
            **asdict(known.wishes),
            "kinds": list(known.wishes.kinds),
            "attributes": [{"name": name, "value": value} for name, value in known.wishes.attributes],
        },
        "loved": list(known.loved),
        "disliked": list(known.disliked),
        "notes": [{"title": note.name, "seen": note.seen, "liked": note.liked} for note in view.notes],
    }


def messages(given: Sequence[Mapping[str, Any]], known: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """All that is given away, as (role, text) for `base.Transcript`: the knowledge, the turns, and the latest notes."""
    rows = [(turn["role"], _json({"text": turn["text"], "items": turn["items"]})) for turn in given]
    if known is None:
        return rows
    lasting = {name: value for name, value in known.items() if name != "notes"}
    return [("knowledge", _json(lasting)), *rows, ("notes", _json(known["notes"]))]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# ── answered ────────────────────────────────────────────────────────────────────────────────────────────────────


def reply(answer: Any, role: str, name: str, sent: Sent, catalog: Catalog, linked: Linked) -> Reply:
    """The utterance in an answer; a failed one with a sentence, where the answer cannot be used.

    An answer is text, or text with items: a mapping or an object with `text`, `items` and `leave`, or a pair (text,
    items). An item is its id or its title, or a mapping with `item_id` or `title`. Items that the text does not name
    are added to its end. None, or no text, is a user that leaves; `leave` leaves with these words. `name`: whose answer
    it is, for the sentence.
    """
    try:
        text, finish = _utterance(answer, role, catalog, linked)
    except CrsError as error:
        return failed(f"{name} {error}", sent)
    return Reply(text, sent, len(text.split()), finish)


def failed(error: str, sent: Sent) -> Reply:
    """No utterance, for a reason."""
    return Reply("", sent, 0, "failed", error=utterances.one_line(error))


def _utterance(answer: Any, role: str, catalog: Catalog, linked: Linked) -> tuple[str, Finish]:
    text, items, leave = _parts(answer, role)
    _check_length(text)
    if len(items) > MAX_ITEMS:
        raise CrsError(f"named {len(items):,} items in one turn; at most {MAX_ITEMS} are taken")
    names = [_name(item, catalog) for item in items]
    for item in names:
        text = _bracketed(text, item, catalog)
    text = linked(text)
    for item in names:
        text = text if _has(text, item, catalog) else f"{text} {utterances.mention(item)}"
    text = utterances.clean(text)
    _check_length(text)
    if not text and role != USER and not leave:
        raise CrsError("said nothing; a recommender answers with text")
    return text, "left" if leave or not text else "end"


def _check_length(text: str) -> None:
    n_words = len(text.split())
    if n_words > MAX_WORDS or len(text) > MAX_CHARACTERS:
        raise CrsError(
            f"said {n_words:,} words ({len(text):,} characters) in one turn; at most {MAX_WORDS} words and "
            f"{MAX_CHARACTERS:,} characters are taken"
        )


def _parts(answer: Any, role: str) -> tuple[str, list[Any], bool]:
    """Text, items and whether the party leaves, of an answer in any of its shapes."""
    match answer:
        case None if role == USER:
            return "", [], True
        case str():
            return answer, [], False
        case Mapping():
            if unknown := [key for key in answer if key not in _FIELDS]:
                raise CrsError(f"returned an unknown field {str(unknown[0])[:80]!r}; known are {', '.join(_FIELDS)}")
            fields = dict(answer)
        case (text, items):
            fields = {"text": text, "items": items}
        case _ if hasattr(answer, "text"):
            fields = {name: getattr(answer, name) for name in _FIELDS if hasattr(answer, name)}
        case _:
            raise CrsError(f"returned {_kind(answer)}; {_EXPECTED}")
    text, items, leave = fields.get("text"), fields.get("items"), fields.get("leave", False)
    if not isinstance(leave, bool):
        raise CrsError(f"returned {_kind(leave)} as leave; it is true or false")
    if text is None and (items or leave):
        text = ""
    if not isinstance(text, str):
        raise CrsError(f"returned {_kind(text)} as text; {_EXPECTED}")
    if isinstance(items, str) or not isinstance(items, Sequence | None):
        raise CrsError(f"returned {_kind(items)} as items; they are a list of item ids or titles")
    return text, list(items or ()), leave


_EXPECTED = 'expected is text, or {"text": "…", "items": ["…"]}'


def _kind(value: Any) -> str:
    return "nothing (None)" if value is None else f"a value of type {type(value).__name__}"


# ── items ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _name(item: Any, catalog: Catalog) -> str:
    """The name of an item that is given by id, by title, or as a mapping with either.

    Digits alone are an id. A title that stands alone must be in the catalogue, because it may be a wrong id; in a
    mapping it need not be.
    """
    item_id, title = (item.get("item_id"), item.get("title")) if isinstance(item, Mapping) else (item, None)
    if item_id is None and isinstance(title, str) and title.strip():
        found = catalog.find(title)
        return utterances.item_name(title, None) if found is None else catalog.name(found)
    if isinstance(item_id, bool) or not isinstance(item_id, str | Integral):
        raise CrsError(f"returned an item that is {_kind(item_id)}; an item is its id or its title")
    try:
        text = str(item_id)
    except ValueError:  # Python writes no number of more than 4,300 digits
        raise CrsError("named an item by a number of thousands of digits; an item is its id or its title") from None
    try:
        return catalog.name(text)
    except CrsError:
        found = None if text.isdigit() else catalog.find(text)
    if found is None:
        raise CrsError(
            f"named item {text[:80]!r}, which is neither an id nor a title of the catalogue; return ids of table "
            'items, or {"title": "…"} for a title outside it'
        )
    return catalog.name(found)


def _has(text: str, name: str, catalog: Catalog) -> bool:
    """Whether an utterance mentions an item in brackets."""
    said = [other for other, _, _ in utterances.mentions(text)]
    item_id = catalog.find(name)
    return name in said or (item_id is not None and item_id in map(catalog.find, said))


def _bracketed(text: str, name: str, catalog: Catalog) -> str:
    """An utterance with the first place that names the item in brackets: with its year, else by the bare title."""
    title, year = split_year(name)
    if _has(text, name, catalog):
        return text
    taken = [(start, end) for _, start, end in utterances.mentions(text)]
    for words in (name, title) if year else (name,):
        for found in re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)(?!\s*\(\d{{4}}\))", text):
            if not any(start < found.end() and found.start() < end for start, end in taken):
                return utterances.replace_spans(text, [(*found.span(), utterances.mention(name))])
    return text
