"""Files of dialogues in the forms that other programs write, as `Stored` dialogues. `data.exports` writes four of them.

- `dialoguekit`: JSON of DialogueKit and UserSimCRS: a list of dialogues with `conversation` of `participant` and
  `utterance`; titles are annotations; people's labels `satisfaction` stand at a dialogue or an utterance, or in the
  `metadata` of either.
- `redial`: JSON lines in ReDial's schema (`redial`), also as on Hugging Face's hub.
- `crslab`: JSON of CRSLab's ReDial: a list of dialogues with `dialog` of `role`, `text` (a text or tokens) and
  `movies` or `items`; movies are `@` and ReDial's number, in texts and lists, or addresses of DBpedia.
- `trl`: JSON lines of `messages` with `role` and `content`, or of `prompt` and `completion`. Where the system message
  is ours (also in the first user message), it says who `assistant` is; else `assistant` is the recommender. Private
  lines of our views become notes.
- `dataset`: `dialogues.parquet` of `crs export`, or its folder.

Lines end with `\\n` alone: texts hold other separators of lines.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from crslib.data import trl
from crslib.data.catalog import item_names
from crslib.data.corpora import redial
from crslib.data.corpora.base import noted
from crslib.data.corpora.reading import Record, each, json_records, mark, name_of, resource_title, role_of, text_of
from crslib.data.corpora.stored import SATISFACTION, Said, Stored
from crslib.dialogue import utterances, views
from crslib.dialogue.domain import Domain
from crslib.dialogue.stop_reasons import STOP_REASONS
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError
from crslib.files import DAMAGED

_TITLE_SLOTS = frozenset(("item", "title", "movie", "movie_title", "book", "name"))  # of annotations, in lower case
_ABOUT, _LOOKING = "About you: ", "Looking for: "  # of our user's system message


def read(path: Path, form: str, domain: Domain) -> list[Stored]:
    """The dialogues of a file in a form of `FORMS`, in its order. `domain`: the words of private parts in exports of
    ours.

    Raises `CrsError` with file, place and remedy for a file that cannot be read, holds no dialogue, is not of the form,
    has a party of an unknown role, or two dialogues of one id.
    """
    stored = FORMS[form](path, domain)
    if not any(one.said for one in stored):
        raise CrsError(f"{path} holds no dialogues; give a file with at least one")
    places: dict[str, int] = {}
    for place, one in enumerate(stored, start=1):
        if (first := places.setdefault(one.dialogue_id, place)) != place:
            raise CrsError(
                f"{path}: dialogues {first} and {place} have the same id {one.dialogue_id!r}; give each its own"
            )
    return stored


# ── the forms ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _dialoguekit(path: Path, _: Domain) -> list[Stored]:
    def stored(place: int, record: Record) -> Stored:
        about = record.get("metadata") or {}
        said = tuple(
            Said(
                role_of(row["participant"]),
                mark(text_of(row["utterance"]), _annotated(row)),
                satisfaction=_label(row.get(SATISFACTION, (row.get("metadata") or {}).get(SATISFACTION))),
            )
            for row in record["conversation"]
        )
        return Stored(
            name_of(record.get("conversation_id", record.get("conversation ID")), place),
            said,
            name_of((record.get("user") or {}).get("id"), 0),
            _stop(about.get("stop_reason")),
            _label(record.get(SATISFACTION, about.get(SATISFACTION))),
        )

    return each(path, "dialoguekit", _SHAPES["dialoguekit"], json_records(path, inside="dialogues"), stored)


def _annotated(row: Record) -> Iterator[str]:
    """The titles among the annotations of an utterance: pairs or mappings of slot and value, of any version."""
    acts = row.get("dialogue_acts") or ()
    for pairs in (row.get("annotations"), row.get("slot_values"), *(act.get("annotations") for act in acts)):
        for pair in pairs or ():
            slot, value = (pair["slot"], pair["value"]) if isinstance(pair, Mapping) else pair
            if text_of(slot).casefold() in _TITLE_SLOTS and value is not None:
                yield text_of(value)


def _redial(path: Path, _: Domain) -> list[Stored]:
    def said(dialogue: redial.Dialogue) -> Iterator[Said]:
        before: redial.Turn | None = None
        for turn in dialogue.turns:
            answered = before.mentions if before is not None and before.role == RECOMMENDER else ()
            notes = noted(dialogue, answered) if turn.role == USER else []
            yield Said(turn.role, turn.text, tuple(views.Note.of(note) for note in notes))
            before = turn

    return [Stored(one.dialogue_id, tuple(said(one)), one.user) for one in redial.read_file(path)]


def _crslab(path: Path, _: Domain) -> list[Stored]:
    def stored(place: int, record: Record) -> Stored:
        said = []
        for row in record["dialog"]:
            text = row["text"] if isinstance(row["text"], str) else " ".join(map(text_of, row["text"]))
            items = row.get("items", row.get("movies")) or ()
            text = _LINK.sub(lambda link: utterances.mention(_redial_names().get(link[1], link[0])), text_of(text))
            said.append(Said(role_of(row["role"]), mark(text, filter(None, map(_movie, items)))))
        return Stored(name_of(record.get("conv_id"), place), tuple(said))

    return each(path, "crslab", _SHAPES["crslab"], json_records(path), stored)


_LINK = re.compile(r"@(\d+)")


@cache
def _redial_names() -> dict[str, str]:
    return item_names(redial.items())


def _movie(raw: Any) -> str:
    """The name of a movie in a list of CRSLab: ReDial's number, DBpedia's address or a title."""
    if isinstance(raw, int) or (name := text_of(raw).removeprefix("@")).isdigit():
        return _redial_names().get(str(raw).removeprefix("@"), "")
    return resource_title(name)


def _trl(path: Path, domain: Domain) -> list[Stored]:
    def stored(place: int, record: Record) -> Stored:
        messages = record["messages"] if "messages" in record else [*record["prompt"], *record["completion"]]
        given = [
            views.Message(text_of(message["role"]).strip().casefold(), _content(message["content"]))
            for message in messages
        ]
        first = given[0].text.split("\n")[0] if given else ""
        ours, own = first in (domain.system.recommender, domain.system.user), RECOMMENDER
        left = False
        if ours:
            own = USER if first == domain.system.user else RECOMMENDER
            given, left = trl.restored(given, own)
        other = RECOMMENDER if own == USER else USER
        said: list[Said] = []
        notes: tuple[views.Note, ...] = ()
        system: list[str] = []
        for role, text in ((message.role, message.text) for message in given):
            if role in ("system", "developer"):
                system += text.split("\n")
                continue
            if role not in ("assistant", "user"):
                raise CrsError(f"role {role!r} is unknown; write system, user or assistant")
            if role == "assistant":
                said.append(Said(own, text, notes if own == USER else ()))
                continue
            text, _, private = text.partition("\n") if ours else (text, "", "")
            notes = tuple(views.read_notes(private, domain)) if own == USER else ()
            said.append(Said(other, text))
        told = [
            next((line[len(mark) :] for line in system if line.startswith(mark)), "") for mark in (_ABOUT, _LOOKING)
        ]
        return Stored(
            name_of(record.get("dialogue_id"), place),
            tuple(said),
            stop_reason="user_left" if left else "",
            summary=told[0] if own == USER else "",
            attributes=told[1] if own == USER else "",
        )

    return each(path, "trl", _SHAPES["trl"], json_records(path), stored)


def _content(content: Any) -> str:
    """The text of a message: a text, or a list of parts of type text."""
    return text_of(content) if isinstance(content, str) else "".join(text_of(part["text"]) for part in content)


def _dataset(path: Path, _: Domain) -> list[Stored]:
    file = path / "dialogues.parquet" if path.is_dir() else path
    try:
        frame = pl.read_parquet(file, glob=False)
    except DAMAGED:
        raise CrsError(
            f"{file} is not a readable Parquet file; give one that `crs export --as dataset` wrote"
        ) from None

    def stored(place: int, row: Record) -> Stored:
        return Stored(
            name_of(row["dialogue_id"], place),
            tuple(Said(role_of(turn["role"]), text_of(turn["text"])) for turn in row["turns"]),
            stop_reason=_stop(row.get("stop_reason")),
            summary=row.get("summary") or "",
            attributes=row.get("attributes") or "",
        )

    return each(file, "dataset", _SHAPES["dataset"], frame.iter_rows(named=True), stored)


FORMS: Mapping[str, Callable[[Path, Domain], list[Stored]]] = {
    "dialoguekit": _dialoguekit,
    "redial": _redial,
    "crslab": _crslab,
    "trl": _trl,
    "dataset": _dataset,
}
_SHAPES: Mapping[str, str] = {
    "dialoguekit": "a list of dialogues with `conversation`, a list of `participant` and `utterance`",
    "crslab": "a list of dialogues with `dialog`, a list of `role` and `text`",
    "trl": "lines with `messages`, a list of `role` and `content`, or with such lists `prompt` and `completion`",
    "dataset": "a table with `dialogue_id` and `turns`, lists of `role` and `text`",
}


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _stop(reason: Any) -> str:
    return reason if isinstance(reason, str) and reason in STOP_REASONS else ""


def _label(value: Any) -> float | None:
    """A label as a number: a number, a text of one, or the mean of a list of raters'. None: there is no label."""
    if value is None or value == []:
        return None
    values = value if isinstance(value, list) else [value]
    try:
        numbers = [float(one) for one in values if not isinstance(one, bool)]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) < len(values) or not all(map(math.isfinite, numbers)):
        raise CrsError(f"satisfaction {value!r} is not a number; give a number, or a list of the raters' numbers")
    return sum(numbers) / len(numbers)
