"""PEARL (Kim et al., Pearl: A Review-driven Persona-Knowledge Grounded Conversational Recommendation Dataset, ACL
Findings 2024; CC BY 4.0): film dialogues of two simulators that were prompted with people's reviews, in English.

Reads a file of `LangAGI-Lab/pearl` on Hugging Face's hub: a JSON list of records with `dialogue`, a list of
`Seeker: …` and `Recommender: …`; `user_id`; `user_persona`, what the seeker said of films in reviews;
`seen_movie_titles`, these films; `gt_movie_title`, the film to be found, `gt_genre`, `gt_director` and `gt_cast`, and
`gt_abstract`, a review of it. That review is not read: it tells what the seeker will have thought of the film.

The seeker is told the persona without the sentences that name the film to be found, at most `WORDS` words in whole
sentences, and the film's genres; its director and cast would leave few other films.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from crslib import schemas
from crslib.data.catalog import item_row
from crslib.data.corpora.base import Contents, Dialogue, Item, conversation, untitled
from crslib.data.corpora.reading import Record, each, json_records, mark, name_of, role_of, text_of, title_of, words_of
from crslib.data.titles import split_year, without_titles

WORDS = 100
N_GENRES = 2  # at most, that the seeker is told
_SHAPE = "a list of records with `dialogue`, a list of `Seeker: …` and `Recommender: …`"


def read(path: Path) -> Contents:
    """The dialogues of a file in file order. Raises `CrsError` when it is none of PEARL."""
    left_out: Counter[str] = Counter()
    facts: dict[str, dict[str, Any]] = {}
    records = json_records(path, inside="data")
    dialogues = each(path, "pearl", _SHAPE, records, lambda place, record: _dialogue(place, record, facts, left_out))
    frame = pl.DataFrame(list(facts.values()), schema=dict(schemas.TABLES["items"]))
    return Contents(tuple(dialogues), False, frame, left_out)


def _dialogue(place: int, record: Record, facts: dict[str, dict[str, Any]], left_out: Counter[str]) -> Dialogue:
    target = title_of(record.get("gt_movie_title") or "")
    seen = list(filter(None, map(title_of, record.get("seen_movie_titles") or ())))
    messages = []
    for row in record["dialogue"]:
        speaker, _, said = text_of(row).partition(":")
        messages.append((role_of(speaker), mark(words_of(said), filter(None, [target, *seen]), certain=False)))
    items = {title: Item(title, None, True, None, "") for title in seen}
    if target:
        items[target] = Item(target, None, None, None, "")
        facts.setdefault(target, _facts(target, record))
    genres = _parts(record.get("gt_genre"))[:N_GENRES]
    return conversation(
        name_of(None, place),
        messages,
        user=name_of(record.get("user_id"), 0),
        items=items,
        summary=_summary(text_of(record.get("user_persona") or ""), target, left_out),
        attributes=f"{'/'.join(genre.lower() for genre in genres)} movie" if genres else "",
        targets=(target,) if target else (),
    )


def _summary(persona: str, target: str, left_out: Counter[str]) -> str:
    kept = without_titles(persona, [target] if target else [])
    left_out["personas without the sentences that name the film to be found"] += len(kept.split()) < len(
        persona.split()
    )
    words: list[str] = []
    for sentence in re.split(r"(?<=[.!?;])\s+", kept):
        if len(words) + len(sentence.split()) > WORDS:
            left_out[f"personas shortened to {WORDS} words"] += 1
            break
        words += sentence.split()
    return words_of(" ".join(words))


def _facts(name: str, record: Record) -> dict[str, Any]:
    title, year = split_year(name)
    return item_row(
        untitled(name),
        title,
        year,
        kinds=sorted({genre.lower() for genre in _parts(record.get("gt_genre"))}),
        makers=_parts(record.get("gt_director")),
        people=_parts(record.get("gt_cast")),
    )


def _parts(value: Any) -> list[str]:
    """Names in a list, or in a text between commas."""
    parts = value if isinstance(value, list) else text_of(value or "").split(",")
    return [part for part in map(words_of, parts) if part]
