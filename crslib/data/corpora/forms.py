"""Files of dialogues in the forms that other programs write, as `Stored` dialogues. `data.exports` writes four of them.

- `dialoguekit`: JSON of DialogueKit and UserSimCRS: a list of dialogues with `conversation` of `participant` and
  `utterance`; titles are annotations; people's labels `satisfaction` stand at a dialogue or an utterance, or in the
  `metadata` of either.
- `redial`: JSON lines in ReDial's schema (`redial`), also as on Hugging Face's hub.
- `crslab`: JSON of CRSLab's ReDial: a list of dialogues with `dialog` of `role`, `text` (a text or tokens) and
  `movies` or `items`; movies are `@` and ReDial's number, in texts and lists, or addresses of DBpedia.
- `trl`: JSON lines of `messages` with `role` and `content`, or of `prompt` and `completion`. Where the system message
  is ours, it says who `assistant` is; else `assistant` is the recommender. Private lines of our views become notes.
- `dataset`: `dialogues.parquet` of `crs export`, or its folder.

Lines end with `\\n` alone: texts hold other separators of lines.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from crslib.data.catalog import item_names
from crslib.data.corpora import redial
from crslib.data.corpora.base import noted
from crslib.data.corpora.stored import SATISFACTION, Said, Stored
from crslib.data.titles import split_year
from crslib.dialogue import utterances, views
from crslib.dialogue.stop_reasons import STOP_REASONS
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError

ROLES: Mapping[str, str] = {
    **dict.fromkeys(("user", "usr", "human", "customer", "seeker", "initiator", "simulator"), USER),
    **dict.fromkeys(("recommender", "agent", "assistant", "bot", "crs", "respondent", "system", "wizard"), RECOMMENDER),
}
"""Spellings of the two roles, in lower case."""
_TITLE_SLOTS = frozenset(("item", "title", "movie", "movie_title", "book", "name"))  # of annotations, in lower case
_ABOUT, _LOOKING = "About you: ", "Looking for: "  # of our user's system message
_DBPEDIA = re.compile(r"<?https?://dbpedia\.org/resource/(?P<name>[^>]+)>?")
_FILM = re.compile(r"_\((?:(?P<year>\d{4})_)?film(?:_series)?\)$")
_Record = Mapping[str, Any]


def read(path: Path, form: str) -> list[Stored]:
    """The dialogues of a file in a form of `FORMS`, in its order.

    Raises `CrsError` with file, place and remedy for a file that cannot be read, holds no dialogue, is not of the form,
    has a party of an unknown role, or two dialogues of one id.
    """
    stored = FORMS[form](path)
    if not any(one.said for one in stored):
        raise CrsError(f"{path} holds no dialogues; give a file with at least one")
    places: dict[str, int] = {}
    for place, one in enumerate(stored, start=1):
        if (first := places.setdefault(one.dialogue_id, place)) != place:
            raise CrsError(
                f"{path}: dialogues {first} and {place} have the same id {one.dialogue_id!r}; give each its own"
            )
    return stored


def role_of(name: Any) -> str:
    """`user` or `recommender`. Raises `CrsError` for a name that is in no spelling of `ROLES`."""
    role = ROLES.get(name.strip().casefold()) if isinstance(name, str) else None
    if role is None:
        raise CrsError(f"role {name!r} is unknown; write user or recommender (also {', '.join(sorted(ROLES))})")
    return role


# ── the forms ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _dialoguekit(path: Path) -> list[Stored]:
    def stored(place: int, record: _Record) -> Stored:
        about = record.get("metadata") or {}
        said = tuple(
            Said(
                role_of(row["participant"]),
                mark(_text(row["utterance"]), _annotated(row)),
                satisfaction=_label(row.get(SATISFACTION, (row.get("metadata") or {}).get(SATISFACTION))),
            )
            for row in record["conversation"]
        )
        return Stored(
            _name(record.get("conversation_id", record.get("conversation ID")), place),
            said,
            _name((record.get("user") or {}).get("id"), 0),
            _stop(about.get("stop_reason")),
            _label(record.get(SATISFACTION, about.get(SATISFACTION))),
        )

    return _each(path, "dialoguekit", _json(path, inside="dialogues"), stored)


def _annotated(row: _Record) -> Iterator[str]:
    """The titles among the annotations of an utterance: pairs or mappings of slot and value, of any version."""
    acts = row.get("dialogue_acts") or ()
    for pairs in (row.get("annotations"), row.get("slot_values"), *(act.get("annotations") for act in acts)):
        for pair in pairs or ():
            slot, value = (pair["slot"], pair["value"]) if isinstance(pair, Mapping) else pair
            if _text(slot).casefold() in _TITLE_SLOTS and value is not None:
                yield _text(value)


def _redial(path: Path) -> list[Stored]:
    def said(dialogue: redial.Dialogue) -> Iterator[Said]:
        before: redial.Turn | None = None
        for turn in dialogue.turns:
            answered = before.mentions if before is not None and before.role == RECOMMENDER else ()
            notes = noted(dialogue, answered) if turn.role == USER else []
            yield Said(turn.role, turn.text, tuple(views.Note.of(note) for note in notes))
            before = turn

    return [Stored(one.dialogue_id, tuple(said(one)), one.user) for one in redial.read_file(path)]


def _crslab(path: Path) -> list[Stored]:
    def stored(place: int, record: _Record) -> Stored:
        said = []
        for row in record["dialog"]:
            text = row["text"] if isinstance(row["text"], str) else " ".join(map(_text, row["text"]))
            items = row.get("items", row.get("movies")) or ()
            text = _LINK.sub(lambda link: utterances.mention(_redial_names().get(link[1], link[0])), _text(text))
            said.append(Said(role_of(row["role"]), mark(text, filter(None, map(_movie, items)))))
        return Stored(_name(record.get("conv_id"), place), tuple(said))

    return _each(path, "crslab", _json(path), stored)


_LINK = re.compile(r"@(\d+)")


@cache
def _redial_names() -> dict[str, str]:
    return item_names(redial.items())


def _movie(raw: Any) -> str:
    """The name of a movie in a list of CRSLab: ReDial's number, DBpedia's address or a title."""
    if isinstance(raw, int) or (name := _text(raw).removeprefix("@")).isdigit():
        return _redial_names().get(str(raw).removeprefix("@"), "")
    if resource := _DBPEDIA.fullmatch(name):
        film = _FILM.search(resource["name"])
        title = _FILM.sub("", resource["name"]).replace("_", " ")
        return f"{title} ({film['year']})" if film and film["year"] else title
    return name


def _trl(path: Path) -> list[Stored]:
    def stored(place: int, record: _Record) -> Stored:
        messages = record["messages"] if "messages" in record else [*record["prompt"], *record["completion"]]
        rows = [(_text(message["role"]).strip().casefold(), _content(message["content"])) for message in messages]
        system = "\n".join(text for role, text in rows if role in ("system", "developer")).split("\n")
        ours = system[0] in (views.RECOMMENDER_SYSTEM, views.USER_SYSTEM)
        own = USER if system[0] == views.USER_SYSTEM else RECOMMENDER
        other = RECOMMENDER if own == USER else USER
        said: list[Said] = []
        notes: tuple[views.Note, ...] = ()
        for role, text in rows:
            if role in ("system", "developer"):
                continue
            if role not in ("assistant", "user"):
                raise CrsError(f"role {role!r} is unknown; write system, user or assistant")
            if role == "assistant":
                said.append(Said(own, text, notes if own == USER else ()))
                continue
            text, _, private = text.partition("\n") if ours else (text, "", "")
            notes = tuple(views.read_notes(private)) if own == USER else ()
            said.append(Said(other, text))
        told = [
            next((line[len(mark) :] for line in system if line.startswith(mark)), "") for mark in (_ABOUT, _LOOKING)
        ]
        left = own == USER and bool(said) and not said[-1].text.strip() and said[-1].role == USER
        return Stored(
            _name(record.get("dialogue_id"), place),
            tuple(said[:-1] if left else said),
            stop_reason="user_left" if left else "",
            summary=told[0] if own == USER else "",
            attributes=told[1] if own == USER else "",
        )

    return _each(path, "trl", _json(path), stored)


def _content(content: Any) -> str:
    """The text of a message: a text, or a list of parts of type text."""
    return _text(content) if isinstance(content, str) else "".join(_text(part["text"]) for part in content)


def _dataset(path: Path) -> list[Stored]:
    file = path / "dialogues.parquet" if path.is_dir() else path
    try:
        frame = pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError):
        raise CrsError(
            f"{file} is not a readable Parquet file; give one that `crs export --as dataset` wrote"
        ) from None

    def stored(place: int, row: _Record) -> Stored:
        return Stored(
            _name(row["dialogue_id"], place),
            tuple(Said(role_of(turn["role"]), _text(turn["text"])) for turn in row["turns"]),
            stop_reason=_stop(row.get("stop_reason")),
            summary=row.get("summary") or "",
            attributes=row.get("attributes") or "",
        )

    return _each(file, "dataset", frame.iter_rows(named=True), stored)


FORMS: Mapping[str, Callable[[Path], list[Stored]]] = {
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


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _json(path: Path, inside: str = "") -> list[Any]:
    """The records of a file: of a JSON list, of one JSON mapping (of its list `inside`, where it has that), or of JSON
    lines."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except IsADirectoryError:
        raise CrsError(f"{path} is a folder; give one file of dialogues") from None
    except OSError as error:
        raise CrsError(f"cannot read {path}: {error.strerror}; give a file of dialogues") from None
    except UnicodeDecodeError as error:
        raise CrsError(f"{path} is not UTF-8 at byte {error.start}; give JSON or JSON lines in UTF-8") from None
    try:
        whole = json.loads(content)
    except ValueError:
        return _json_lines(path, content)
    except RecursionError:
        raise CrsError(f"{path} is nested too deeply to be dialogues; give JSON or JSON lines") from None
    records = whole.get(inside, [whole]) if isinstance(whole, dict) else whole
    return records if isinstance(records, list) else [records]


def _json_lines(path: Path, content: str) -> list[Any]:
    records = []
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                reason = str(error).split(":")[0].lower()
                raise CrsError(f"{path} line {number} is not JSON ({reason}); give JSON or JSON lines") from None
    return records


def _each(path: Path, form: str, records: Iterable[Any], stored: Callable[[int, _Record], Stored]) -> list[Stored]:
    """`stored` of each record; an error names file and dialogue."""
    dialogues = []
    for place, record in enumerate(records, start=1):
        try:
            dialogues.append(stored(place, record))
        except CrsError as error:
            raise CrsError(f"{path}, dialogue {place}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            lack = f"lacks {error}" if isinstance(error, KeyError) else "has another shape"
            raise CrsError(f"{path}, dialogue {place} {lack}; --as {form} reads {_SHAPES[form]}") from None
    return dialogues


def mark(text: str, titles: Iterable[str]) -> str:
    """`text` with `titles` in `[[…]]`: each where it stands as a word after the one before it, else where it stands
    first; in any case, and where it is not in the text with its year, without it. A title that is not in the text, or
    in brackets already, marks nothing."""
    taken = [(start, end) for _, start, end in utterances.mentions(text)]
    spans: list[tuple[int, int, str]] = []
    after = 0
    for title in map(str.strip, titles):
        free = _free(text, title, taken) or _free(text, split_year(title)[0], taken)
        if free:
            start, end = next((span for span in free if span[0] >= after), free[0])
            spans.append((start, end, utterances.mention(title)))
            taken.append((start, end))
            after = end
    return utterances.replace_spans(text, spans)


def _free(text: str, words: str, taken: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where `words` stand in `text` as whole words, in any case, outside the spans `taken`."""
    found = re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) if words else ()
    spans = [at.span() for at in found]
    return [span for span in spans if all(span[1] <= start or end <= span[0] for start, end in taken)]


def _text(value: Any) -> str:
    """A text, without halves of surrogate pairs, which no file can hold. Raises `TypeError` for anything else."""
    if not isinstance(value, str):
        raise TypeError
    return value.encode("utf-8", "replace").decode("utf-8")


def _name(value: Any, place: int) -> str:
    """An id as text; without one the dialogue's place in the file, or nothing for place 0."""
    if value is None or value == "":
        return f"{place:04d}" if place else ""
    return utterances.one_line(_text(value if isinstance(value, str) else str(value)))


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
