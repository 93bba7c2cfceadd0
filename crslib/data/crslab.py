"""A run's dialogues as the ReDial data that CRSLab 0.1.2 reads, words and all ids in files of their own.

Its `ReDialDataset` (tokenize: nltk) looks for these files in `data/dataset/redial/nltk` beside the installed package,
and downloads others unless `.built` names the version that it expects. What it has from DBpedia is here the catalogue:
films, their genres, and who made them. There is no graph of concepts, so those files are empty; KBRD and ReDial's own
model run without, KGSF learns nothing from it. Knows nothing of profiles, notes and hidden items.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import polars as pl

from crslib.dialogue.utterances import USER, item_name, plain
from crslib.identity import derive_seed

PARTS = ("train", "valid", "test")
PAD = "__pad__"
SPECIAL = (PAD, "__start__", "__end__", "__unk__")  # tokens 0 to 3, by the reader's own table
RELATIONS = ("genre", "director", "actor")  # 0 to 2; the reader drops those of 500 triples or fewer
BUILT = "by crslib\n0.31"
_FILM = 100_000  # added to a film's id: the reader takes `@` and five or six digits for a film
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def files(dialogues: pl.DataFrame, turns: pl.DataFrame, items: pl.DataFrame) -> dict[str, str]:
    """File name → content, from the tables of a run.

    Of ten people eight train, one is for validation, one for the test, all their dialogues together. Tokens are those
    of the training part, the most frequent first; a film of the catalogue is one token.
    """
    entities = Entities(items)
    owner = dict(dialogues.select("dialogue_id", "profile_id").iter_rows())
    part = split(set(owner.values()))
    talks: dict[str, list[dict[str, Any]]] = {name: [] for name in PARTS}
    said = turns.filter(pl.col("text") != "").sort("dialogue_id", "turn")
    for (dialogue_id,), talk in said.group_by("dialogue_id", maintain_order=True):
        dialog = [_utterance(row, entities) for row in talk.iter_rows(named=True)]
        talks[part[owner[str(dialogue_id)]]].append({"conv_id": dialogue_id, "dialog": dialog})
    found = Counter(token for talk in talks["train"] for one in talk["dialog"] for token in one["text"])
    tokens = [*SPECIAL, *sorted(found, key=lambda token: (-found[token], token))]
    content: dict[str, Any] = {f"{name}_data.json": talks[name] for name in PARTS}
    content |= {
        "token2id.json": {token: place for place, token in enumerate(tokens)},
        "entity2id.json": entities.ids,
        "movie_ids.json": sorted(entities.films.values()),
        "dbpedia_subkg.json": entities.graph,
        "concept2id.json": {PAD: 0},
    }
    texts = {name: json.dumps(each, ensure_ascii=False) + "\n" for name, each in content.items()}
    return texts | {"conceptnet_subkg.txt": "", ".built": BUILT}


def split(people: set[str]) -> dict[str, str]:
    """Each person's part of `PARTS`: of every ten, in an order drawn from the names, the ninth and the tenth do not
    train."""
    order = sorted(people, key=lambda person: derive_seed(0, "crslab", person))
    return {person: {8: "valid", 9: "test"}.get(place % 10, "train") for place, person in enumerate(order)}


class Entities:
    """What the graph is about. `ids`: name → number, from 1 (0 fills gaps); `films`: item id → number; `graph`: number,
    as text → relation and number of each neighbour. People of one film only connect nothing and are left out."""

    def __init__(self, items: pl.DataFrame) -> None:
        rows = items.sort("item_id").to_dicts()
        credits = Counter(person for row in rows for person in {*row["directors"], *row["cast"]})
        people = sorted(person for person, n in credits.items() if n > 1)
        genres = sorted({genre for row in rows for genre in row["genres"]})
        self.names = {row["item_id"]: f"{item_name(row['title'], row['year'])} [{row['item_id']}]" for row in rows}
        self.ids = dict(zip(dict.fromkeys([PAD, *self.names.values(), *genres, *people]), count(), strict=False))
        self.films = {item_id: self.ids[name] for item_id, name in self.names.items()}
        self.graph: dict[str, list[list[int]]] = {str(number): [] for number in self.ids.values() if number}
        for row in rows:
            self.graph[str(self.films[row["item_id"]])] = [
                [relation, self.ids[name]]
                for relation, column in enumerate(("genres", "directors", "cast"))
                for name in row[column]
                if name in self.ids
            ]
        # A single name may be any word ("Rain"); a genre is meant as one.
        self._words = {tuple(_TOKEN.findall(name.lower())): name for name in (*genres, *people)}
        self._words = {words: name for words, name in self._words.items() if len(words) > 1 or name in genres}
        self._lengths = sorted({len(words) for words in self._words}, reverse=True)

    def said(self, tokens: Sequence[str]) -> Iterator[str]:
        """The genres and people whose full names are among `tokens`, from left to right, the longest first."""
        low = [token.lower() for token in tokens]
        for start in range(len(low)):
            for length in self._lengths:
                if (words := tuple(low[start : start + length])) in self._words:
                    yield self._words[words]
                    break


def _utterance(row: Mapping[str, Any], entities: Entities) -> dict[str, Any]:
    tokens, movies, end = [], [], 0
    for item in sorted(row["items"], key=lambda item: item["start"]):
        if item["item_id"] in entities.films:
            before = plain(row["text"][end : item["start"]])
            tokens += [*_TOKEN.findall(before), f"@{_FILM + entities.films[item['item_id']]}"]
            movies.append(entities.names[item["item_id"]])
            end = item["end"]
    tokens += _TOKEN.findall(plain(row["text"][end:]))
    role = "Seeker" if row["role"] == USER else "Recommender"
    named = list(dict.fromkeys(entities.said(tokens)))
    return {"utt_id": row["turn"], "role": role, "text": tokens, "movies": movies, "entity": named, "word": []}
