"""Made-up books and ratings in the shape of Goodbooks-10k: titles, authors, years and tags; nobody's real ratings."""

import json
import random
from pathlib import Path

import polars as pl

from crslib import schemas
from crslib.data import tables

AUTHORS = ("Toni Lindgren", "Mara Okafor", "Ivo Brandt", "Lena Castellane", "Huw Penrose", "Aiko Tanabe")
_FIRST = ("Salt", "Winter", "Glass", "Hollow", "Paper", "Iron", "Quiet", "Amber", "Northern", "Drowned")
_SECOND = ("Orchard", "Ledger", "Harbour", "Lantern", "Almanac", "Fugue")
_KINDS = ("fantasy", "mystery", "romance", "science-fiction", "classics", "young-adult")
_TAGS = ("ships", "magic schools", "old houses")


def books(*, kinds: bool = True) -> pl.DataFrame:
    """Table `items`: sixty books. Without `kinds` none has any, and what is known are authors, years and tags."""
    rows = []
    for number in range(60):
        first, second = _FIRST[number % 10], _SECOND[number // 10]
        own = [_KINDS[number % 6], *([_KINDS[(number // 6) % 6]] if number % 3 == 0 else [])]
        rows.append(
            {
                "item_id": f"b{number:02d}",
                "title": f"The {first} {second}",
                "year": 1950 + number % 7 * 10 + number % 3,
                "kinds": sorted(set(own)) if kinds else [],
                "makers": [AUTHORS[number % 6]],
                "people": [],
                "attributes": [{"name": "tag", "value": _TAGS[number % 3]}],
                "external_id": None,
                "n_ratings": 0,
                "mean_rating": None,
            }
        )
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["items"]))


def ratings() -> pl.DataFrame:
    """Table `ratings`: forty people with thirty ratings each, who like two of the authors and two of the kinds."""
    rows = []
    for user in range(40):
        rng = random.Random(user)
        for at, number in enumerate(rng.sample(range(60), 30)):
            liked = number % 6 in (user % 6, (user + 1) % 6)
            rating = float(rng.choice((4, 5, 5) if liked else (1, 2, 3, 3)))
            rows.append((f"r{user:02d}", f"b{number:02d}", rating, 1_000_000 + at))
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["ratings"]), orient="row")


def write(folder: Path, *, kinds: bool = True) -> Path:
    """A data folder of the books, which says that they are books."""
    tables.write(books(kinds=kinds), ratings(), folder)
    (folder / "source.json").write_text(json.dumps({"name": "invented books", "domain": "books"}), encoding="utf-8")
    return folder
