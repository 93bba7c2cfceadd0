"""Files in the shape of public data sets, all of the same made-up books and readers (`books`).

`python -m tests.support.set_files FOLDER` writes and imports each, and prints what came of it: items, ratings, users,
and how many of them are eligible for a profile.
"""

import csv
import gzip
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from crslib.cli.main import main
from crslib.data import histories, tables
from crslib.data.source import Source
from crslib.users.profiles import eligible
from tests.support import books

Words = Sequence[str | Path]
ITEMS = books.books().to_dicts()
RATINGS = books.ratings().to_dicts()


def _table(path: Path, rows: Iterable[Sequence[Any]], delimiter: str = ",", **options: Any) -> Path:
    with path.open("w", newline="", **{"encoding": "utf-8"} | options.pop("file", {})) as file:
        csv.writer(file, delimiter=delimiter, **options).writerows(rows)
    return path


def _lines(path: Path, rows: Iterable[Mapping[str, Any]], form: Callable[[Any], str] = json.dumps) -> Path:
    text = "".join(f"{form(row)}\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return path


def recbole(to: Path) -> Words:
    rated = [(r["user_id"], r["item_id"], r["rating"], r["rated_at"]) for r in RATINGS]
    items = [(i["item_id"], i["title"], i["year"], " ".join(i["kinds"])) for i in ITEMS]
    inter = _table(
        to / "x.inter", [("user_id:token", "item_id:token", "rating:float", "timestamp:float"), *rated], "\t"
    )
    head = ("item_id:token", "title:token_seq", "year:token", "class:token_seq")
    return "--ratings", inter, "--items", _table(to / "x.item", [head, *items], "\t")


def amazon(to: Path) -> Words:
    reviews = (
        {
            **{"rating": r["rating"], "title": "Fine", "text": 'It said "now".', "asin": "B0", "user_id": r["user_id"]},
            **{"parent_asin": r["item_id"], "timestamp": 1000 * r["rated_at"], "helpful_vote": 0},
        }
        for r in RATINGS
    )
    meta = (
        {
            **{"title": i["title"], "store": f"{i['makers'][0]} (Author)  Format: Kindle Edition"},
            **{"categories": i["kinds"], "parent_asin": i["item_id"], "price": None},
        }
        for i in ITEMS
    )
    return "--ratings", _lines(to / "reviews.jsonl.gz", reviews), "--items", _lines(to / "meta.jsonl.gz", meta)


def goodbooks(to: Path) -> Words:
    tags = sorted({kind for item in ITEMS for kind in item["kinds"]})
    number = {item["item_id"]: n for n, item in enumerate(ITEMS, start=1)}
    head = ("book_id", "goodreads_book_id", "authors", "original_publication_year", "title")
    items = (
        (number[i["item_id"]], f"9{i['item_id'][1:]}", i["makers"][0], float(i["year"]), i["title"]) for i in ITEMS
    )
    tagged = ((f"9{i['item_id'][1:]}", tags.index(kind), 50) for i in ITEMS for kind in i["kinds"])
    rated = ((r["user_id"], number[r["item_id"]], int(r["rating"])) for r in RATINGS)
    return (
        *("--ratings", _table(to / "ratings.csv", [("user_id", "book_id", "rating"), *rated])),
        *("--items", _table(to / "books.csv", [head, *items])),
        *("--tags", _table(to / "book_tags.csv", [("goodreads_book_id", "tag_id", "count"), *tagged])),
        *("--tags", _table(to / "tags.csv", [("tag_id", "tag_name"), *enumerate(tags)])),
    )


def goodreads(to: Path) -> Words:
    rated = (
        {
            **{"user_id": r["user_id"], "book_id": r["item_id"], "is_read": True, "rating": int(r["rating"])},
            "date_added": datetime.fromtimestamp(r["rated_at"], UTC).strftime("%a %b %d %H:%M:%S +0000 %Y"),
        }
        for r in RATINGS
    )
    items = (
        {
            **{"book_id": i["item_id"], "title": i["title"], "publication_year": str(i["year"])},
            "popular_shelves": [{"count": "9", "name": kind} for kind in i["kinds"]],
        }
        for i in ITEMS
    )
    return (
        *("--ratings", _lines(to / "interactions.jsonl.gz", rated)),
        *("--items", _lines(to / "books.jsonl.gz", items), "--no-rating", "0"),
    )


def bookcrossing(to: Path) -> Words:
    latin = {"delimiter": ";", "quoting": csv.QUOTE_ALL, "file": {"encoding": "latin-1"}}
    rated = ((r["user_id"], r["item_id"], int(2 * r["rating"])) for r in RATINGS)
    items = ((i["item_id"], f"{i['title']} é", i["makers"][0], i["year"], "North") for i in ITEMS)
    head = ("ISBN", "Book-Title", "Book-Author", "Year-Of-Publication", "Publisher")
    ratings = _table(to / "BX-Book-Ratings.csv", [("User-ID", "ISBN", "Book-Rating"), *rated], **latin)
    return "--ratings", ratings, "--items", _table(to / "BX-Books.csv", [head, *items], **latin), "--no-rating", "0"


def lastfm(to: Path) -> Words:
    rated = ((r["user_id"], r["item_id"], int(10 ** r["rating"])) for r in RATINGS)
    items = ((i["item_id"], i["title"], "http://x") for i in ITEMS)
    ratings = _table(to / "user_artists.dat", [("userID", "artistID", "weight"), *rated], "\t")
    return "--ratings", ratings, "--items", _table(to / "artists.dat", [("id", "name", "url"), *items], "\t")


def steam(to: Path) -> Words:
    rated = ({"username": r["user_id"], "hours": 2 * r["rating"], "product_id": r["item_id"]} for r in RATINGS)
    items = ({"genres": i["kinds"], "app_name": i["title"], "id": i["item_id"]} for i in ITEMS)
    files = (_lines(to / "reviews.json", rated, repr), _lines(to / "games.json", items, repr))
    return "--ratings", files[0], "--items", files[1], "--feedback", "counts"


def movielens(to: Path) -> Words:
    head, rated = ("userId", "movieId", "rating", "timestamp"), [tuple(r.values()) for r in RATINGS]
    items = ((i["item_id"], f"{i['title']} ({i['year']})", "|".join(i["kinds"])) for i in ITEMS)
    _table(to / "ratings.csv", [head, *rated])
    _table(to / "movies.csv", [("movieId", "title", "genres"), *items])
    return "--movielens", to


FORMS: Mapping[str, Callable[[Path], Words]] = {
    **{"RecBole": recbole, "Amazon Reviews 2023": amazon, "Goodbooks-10k": goodbooks, "Goodreads": goodreads},
    **{"Book-Crossing": bookcrossing, "Last.fm HetRec": lastfm, "Steam": steam, "MovieLens": movielens},
}


def imported(form: str, folder: Path) -> tuple[str, dict[str, int]]:
    """The command that imports files of a form, which are written into `folder`, and the numbers of what came of it."""
    (folder / "files").mkdir(parents=True)
    words = [str(word) for word in FORMS[form](folder / "files")]
    domain = [] if form == "MovieLens" else ["--domain", "books"]
    result = CliRunner().invoke(main, ["data", "import", *words, *domain, "--to", str(folder / "to")])
    assert not result.exit_code, result.output
    items, ratings = tables.load(folder / "to")
    training, hidden = histories.split(ratings, 0.2)
    kind = Source.read(folder / "to").feedback.kind
    people = eligible(training, hidden, histories.scales(training), kind)
    numbers = {"items": items.height, "ratings": ratings.height, "users": ratings["user_id"].n_unique()}
    command = " ".join(["crs data import", *words, *domain]).replace(f"{folder / 'files'}/", "")
    return command.replace(str(folder / "files"), "FOLDER"), {**numbers, "eligible": len(people)}


if __name__ == "__main__":
    print("| set | command | items | ratings | users | eligible |\n|---|---|---|---|---|---|")
    for form in FORMS:
        command, numbers = imported(form, Path(sys.argv[1]) / form)
        print(f"| {form} | `{command} --to DATA` | {' | '.join(f'{n:,}' for n in numbers.values())} |")
