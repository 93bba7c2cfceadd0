"""ReDial (Li et al., Towards Deep Conversational Recommendations, NeurIPS 2018; CC BY 4.0) as `Dialogue`s.

Reads the official zip, a folder of unpacked files or one `.jsonl` file, also with messages already merged into turns.
Item ids are ReDial's own; a film may have two, one with and one without its year.

Corrected while reading: forms and lists of mentions that are `[]` instead of `{}`, or lists of records as in the copy
on Hugging Face's hub; titles with double blanks, `%3F` or
HTML entities; missing titles (another dialogue's title for the same id, else the text says "that movie"); HTML
entities, line breaks, halves of surrogate pairs and empty messages; a typed `@` before a title that is not linked.
"""

import html
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import unquote

import polars as pl

from crslib import files, schemas, store
from crslib.config import resolve
from crslib.data.corpora.base import Dialogue, Item, Turn, first_speakers, merge_messages
from crslib.data.titles import split_year
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError

Split = Literal["train", "test"]

_LINK = re.compile(r"@(\d+)")
_STRAY_AT = re.compile(r"@(?=[^\W\d])")
_ANSWERS = {0: False, 1: True}  # 2 and anything else: no answer

DOMAIN = "movies"  # what its people talk about
ITEMS = resolve("data/redial/items.parquet")
# The genres of the built-in catalogue, from MovieLens. IMDb's other genres (biography, sport, …) are left out.
_GENRES = """action adventure animation comedy crime documentary drama family fantasy film-noir horror musical mystery
    romance sci-fi thriller war western"""
GENRES = frozenset(_GENRES.split())


def read(path: Path, split: Split) -> list[Dialogue]:
    """The dialogues of one split in file order; a conversation that occurs twice is read once.

    `path`: the official zip, a folder or one `.jsonl` file. In a zip or folder every `.jsonl` file whose name starts
    with the split is read. Raises `CrsError` when there is none, when a line is not a ReDial dialogue, and for a file
    of the other split: the test set is for evaluation only.
    """
    return _read(_lines(path, split), path, "download the official zip again")


def check(path: Path) -> None:
    """Raises `CrsError` as `read` does unless `path` has files of both splits; reads no dialogue of them."""
    for split in get_args(Split):
        next(_files(path, split))


def read_file(path: Path) -> list[Dialogue]:
    """The dialogues of one file of JSON lines in ReDial's schema, whoever wrote it and whatever its name.

    Raises `CrsError` as `read` does.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CrsError(f"cannot read {path}: {error.strerror}; give a file of JSON lines in ReDial's schema") from None
    lines = ((str(path), number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip())
    return _read(lines, path, "give a file of JSON lines in ReDial's schema")


def _read(lines: Iterable[tuple[str, int, bytes]], path: Path, remedy: str) -> list[Dialogue]:
    records: dict[str, dict[str, Any]] = {}
    titles: dict[str, str] = {}
    for name, number, line in lines:
        try:
            record = json.loads(line)
            if b"\\ud" in line.lower():  # halves of surrogate pairs, which no file can hold, become question marks
                record = json.loads(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace"))
            records.setdefault(str(record["conversationId"]), record)
            for item_id, raw in _by_id(record.get("movieMentions"), "movieName").items():
                if title := clean_title(raw):
                    titles.setdefault(item_id, title)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CrsError(f"{name} line {number} is not a ReDial dialogue; {remedy}") from None
    dialogues = []
    for dialogue_id, record in records.items():
        try:
            dialogues.append(_dialogue(dialogue_id, record, titles))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CrsError(f"conversation {dialogue_id} of {path} lacks a part of ReDial's schema; {remedy}") from None
    if not any(dialogue.turns for dialogue in dialogues):
        raise CrsError(f"{path} holds no dialogue in which anybody says a word; {remedy}")
    return dialogues


def _by_id(values: Any, field: str = "") -> dict[str, Any]:
    """Movie id → mention or answers. The official files have mappings (`[]` for an empty one), the hub's have lists of
    records with `movieId`. `field`: of a record, its value alone. Raises `TypeError` for anything else."""
    if isinstance(values, list):
        return {str(record["movieId"]): record[field] if field else record for record in values}
    if values is not None and not isinstance(values, dict):
        raise TypeError
    return values or {}


def movies(path: Path) -> dict[str, str]:
    """ReDial's catalogue: the name of every movie that the writers of the dialogues could pick, by item id.

    `path`: the official zip or a folder with `movies_with_mentions.csv`. Its counts of mentions are not read, because
    they include the test set. Movies without a title are left out. Raises `CrsError` when the file is missing or
    damaged.
    """
    pattern = re.compile(r"movies_with_mentions\.csv$")
    name, content = next(_contents(path, pattern, "movies_with_mentions.csv"))
    try:
        rows = pl.read_csv(content, columns=["movieId", "movieName"], schema_overrides={"movieId": pl.String})
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        raise CrsError(f"{name} has no columns movieId and movieName; download the official zip again") from None
    return {item_id: title for item_id, raw in rows.sort("movieId").iter_rows() if (title := clean_title(raw))}


def items(path: Path = ITEMS) -> pl.DataFrame:
    """Facts of ReDial's movies as table `items`, sorted by id: genres, directors and up to three leading actors.

    Unknown facts are empty lists; without ratings `n_ratings` is 0. Raises `CrsError` when the file is missing or
    damaged.
    """
    return store.read_parquet(path, "items")


def build_items(path: Path, facts: Path, to: Path = ITEMS) -> pl.DataFrame:
    """Writes the file that `items` reads, the same bytes every time, and returns its rows. This is how
    `data/redial/items.parquet` was built; nothing else calls it.

    `path`: the official zip or a folder with `movies_with_mentions.csv`; `facts`: JSON lines with movieId, genre,
    director, star and imdb_id. Raises `CrsError` when one of them cannot be read.
    """
    fact_of = {}
    try:
        for fact in map(json.loads, filter(None, map(bytes.strip, facts.read_bytes().split(b"\n")))):
            fact_of[str(fact["movieId"])] = fact
    except OSError as error:
        raise CrsError(f"cannot read {facts}: {error.strerror}; give the JSON lines with facts of movies") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CrsError(
            f"{facts} does not hold JSON lines with a movieId; give the JSON lines with facts of movies"
        ) from None
    rows = []
    for item_id, name in sorted(movies(path).items()):
        fact = fact_of.get(item_id, {})
        title, year = split_year(name)
        rows.append(
            {
                "item_id": item_id,
                "title": title,
                "year": year,
                "kinds": sorted(GENRES.intersection(fact.get("genre") or ())),
                "makers": [utterances.one_line(person) for person in fact.get("director") or ()],
                "people": [utterances.one_line(person) for person in fact.get("star") or ()],
                "attributes": [],
                "external_id": fact.get("imdb_id"),
                "n_ratings": 0,
                "mean_rating": None,
            }
        )
    table = pl.DataFrame(rows, schema=dict(schemas.TABLES["items"]))
    files.write_parquet(table, to)
    return table


def _lines(path: Path, split: Split) -> Iterator[tuple[str, int, bytes]]:
    for name, content in _files(path, split):
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.strip():
                yield name, number, line


def _files(path: Path, split: Split) -> Iterator[tuple[str, bytes]]:
    if path.suffix != ".jsonl" or path.is_dir():
        yield from _contents(path, re.compile(rf"{split}[^/]*\.jsonl$"), f"{split}*.jsonl")
        return
    if path.name.startswith({"train": "test", "test": "train"}[split]):
        raise CrsError(
            f"{path} is not of the {split} split; give a file of it, because the test set is for evaluation only"
        )
    try:
        yield str(path), path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _contents(path: Path, wanted: re.Pattern[str], what: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in a folder or zip whose name matches. Raises `CrsError` when there is none."""
    try:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if wanted.match(file.name))
            if not files:
                raise CrsError(f"{path} has no file {what}; give the folder of the unpacked ReDial zip")
            for file in files:
                yield str(file), file.read_bytes()
        else:
            with zipfile.ZipFile(path) as archive:
                members = [m for m in sorted(archive.namelist()) if wanted.match(m.rsplit("/", 1)[-1])]
                if not members:
                    raise CrsError(f"{path} holds no {what}; give the official redial_dataset.zip")
                for member in members:
                    yield f"{path}:{member}", archive.read(member)
    except OSError as error:
        raise _unreadable(path, error) from None
    except zipfile.BadZipFile:
        raise CrsError(f"{path} is not a zip; give ReDial's zip, folder or .jsonl file") from None


def _unreadable(path: Path, error: OSError) -> CrsError:
    return CrsError(f"cannot read {path}: {error.strerror}; give ReDial's zip, folder or .jsonl file")


def clean_title(raw: str | None) -> str:
    """ReDial's `movieName` as an item name, `Title (Year)` or `Title`; empty for a missing one."""
    title = utterances.one_line(unquote(html.unescape(raw or "")))
    return utterances.item_name(*split_year(title))


def _dialogue(dialogue_id: str, record: Mapping[str, Any], titles: Mapping[str, str]) -> Dialogue:
    user, recommender = str(record["initiatorWorkerId"]), str(record["respondentWorkerId"])
    turns = _turns(record["messages"], (user, recommender), titles)
    return Dialogue(dialogue_id, user, recommender, turns, _items(record, turns, titles))


def _turns(
    messages: Sequence[Mapping[str, Any]], workers: tuple[str, str], titles: Mapping[str, str]
) -> tuple[Turn, ...]:
    """`workers`: of the user and of the recommender. Raises `ValueError` for a message of anybody else."""
    roles = (USER, RECOMMENDER)
    spoken = (
        (roles[workers.index(str(message["senderWorkerId"]))], *_utterance(message["text"], titles))
        for message in messages
    )
    return merge_messages(spoken, counted=all("messageId" in message for message in messages))


def _utterance(raw: str, titles: Mapping[str, str]) -> tuple[str, list[str]]:
    text = utterances.one_line(html.unescape(raw)).replace("[[", "").replace("]]", "")
    ids: list[str] = []

    def mention(link: re.Match[str]) -> str:
        if link[1] not in titles:
            return "that movie"
        ids.append(link[1])
        return utterances.mention(titles[link[1]])

    return _LINK.sub(mention, _STRAY_AT.sub("", text)), ids


def _items(record: Mapping[str, Any], turns: Sequence[Turn], titles: Mapping[str, str]) -> dict[str, Item]:
    seeker, recommender = _by_id(record["initiatorQuestions"]), _by_id(record["respondentQuestions"])
    first_speaker = first_speakers(turns)
    items = {}
    for item_id in dict.fromkeys([*first_speaker, *seeker, *recommender]):
        if item_id not in titles:
            continue
        source = USER if item_id in seeker else RECOMMENDER if item_id in recommender else ""
        answers = seeker.get(item_id) or recommender.get(item_id) or {}
        suggested, seen, liked = (_ANSWERS.get(answers.get(name, 2)) for name in ("suggested", "seen", "liked"))
        if suggested is None and item_id in first_speaker:
            suggested = first_speaker[item_id] == RECOMMENDER
        items[item_id] = Item(titles[item_id], suggested, seen, liked, source)
    return items
