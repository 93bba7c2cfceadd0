"""Public data sets in their own shape, each with the command that imports it."""

import gzip
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from crslib.cli.main import main
from crslib.data import tables
from crslib.data.source import Source
from crslib.dialogue.domain import path_of
from crslib.errors import CrsError
from tests.support import books, set_files

SETS = Path(__file__).parent / "sets"
Import = Callable[..., tuple[pl.DataFrame, pl.DataFrame, str]]


@pytest.fixture
def crs(tmp_path: Path) -> Import:
    """`crs data import` with the given words; the tables that it wrote and what it printed. Raises `CrsError` with the
    sentence of an import that is refused."""

    def imported(*words: Any) -> tuple[pl.DataFrame, pl.DataFrame, str]:
        result = CliRunner().invoke(main, ["data", "import", *map(str, words), "--to", str(tmp_path / "to")])
        if result.exit_code:
            assert isinstance(result.exception, SystemExit), result.exception
            raise CrsError(result.output)
        return *tables.load(tmp_path / "to"), result.output

    return imported


def test_recbole(crs: Import) -> None:
    items, ratings, said = crs("--ratings", SETS / "recbole/set.inter", "--items", SETS / "recbole/set.item")
    assert items.select("title", "year", "kinds").rows() == [
        ('Quiet "Harbour"', 1999, ["drama", "sci-fi"]),
        ("A Long Winter", None, ["comedy"]),
    ]
    assert ratings.rows()[0] == ("u1", "1", 4.0, 964982703)
    assert "title from movie_title" in said and "read as marks from 3 to 5" in said


@pytest.mark.parametrize(("duplicates", "rating"), [("last", 2.0), ("first", 4.0), ("mean", 3.0)])
def test_amazon_reviews_2023(crs: Import, duplicates: str, rating: float) -> None:
    files = ("--ratings", SETS / "amazon/reviews.jsonl", "--items", SETS / "amazon/meta.jsonl")
    items, ratings, said = crs(*files, "--duplicates", duplicates)
    assert items.select("item_id", "title", "kinds", "makers").rows() == [
        ("B1", "Quiet Harbour", ["drama", "movies & tv"], ["A. Nyman"]),
        ("B2", "A Long Winter", ["movies & tv"], []),
    ]
    time = None if duplicates == "first" else 1589665266
    assert ratings.rows() == [
        ("AX1", "B1", 5.0, 1588687728),
        ("AX1", "B2", 1.0, 1588615855),
        ("AX2", "B1", rating, time),
        ("AX2", "B2", 3.0, 1589665266),
    ]
    assert "1 ratings of 1 items that are not described" in said
    assert "1 further rows of a user and item" in said and "1 times that cannot be read" in said
    assert "item_id from parent_asin" in said and "not used: title, text, images, asin" in said


def test_amazon_pairs_that_come_twice_are_asked_about(crs: Import) -> None:
    with pytest.raises(
        CrsError, match=r"rows 3 and 4: user 'AX2' rates item 'B1' twice; .*--duplicates last, first or"
    ):
        crs("--ratings", SETS / "amazon/reviews.jsonl", "--items", SETS / "amazon/meta.jsonl")


@pytest.mark.parametrize("packing", ["plain", "gz", "zst"])
def test_packed_files_are_told_by_their_first_bytes(crs: Import, tmp_path: Path, packing: str) -> None:
    words = []
    for option, name in (("--ratings", "amazon/reviews.jsonl"), ("--items", "amazon/meta.jsonl")):
        path = tmp_path / f"{Path(name).stem}.data"
        content = (SETS / name).read_bytes()
        if packing == "zst":
            import duckdb

            lines = content.decode().splitlines()
            frame = pl.DataFrame({"line": lines})
            with duckdb.connect() as con:
                con.register("lines", frame.to_arrow())
                to = "(FORMAT csv, HEADER false, QUOTE '', ESCAPE '', DELIMITER '\x01', COMPRESSION zstd)"
                con.sql(f"COPY lines TO '{path}' {to}")
        else:
            path.write_bytes(gzip.compress(content) if packing == "gz" else content)
        words += [option, path]
    items, ratings, said = crs(*words, "--duplicates", "last")
    assert (items.height, ratings.height) == (2, 4)
    assert ("packed by" in said) == (packing != "plain")


def test_goodbooks(crs: Import, tmp_path: Path) -> None:
    files = [SETS / "goodbooks" / name for name in ("ratings.csv", "books.csv", "book_tags.csv", "tags.csv")]
    stated = ("--name", "Goodbooks-10k", "--licence", "CC BY-SA 4.0", "--url", "https://example.org")
    words = ("--ratings", files[0], "--items", files[1], "--tags", files[2], "--tags", files[3], "--domain", "books")
    items, ratings, said = crs(*words, *stated, "--column", "language=language_code")
    assert items.select("title", "year", "kinds", "makers").rows() == [
        ("The Salt Games", 2008, ["fantasy", "young-adult"], ["Ada Quill"]),
        ("The Wanderings", None, ["classics"], ["Homeros", "R. Fagel"]),
        ("Untitled Stones", None, [], ["Ben Ito", "Cy Duarte"]),
    ]
    assert items["attributes"].to_list() == [
        [{"name": "series", "value": "The Salt Games"}, {"name": "language", "value": "eng"}],
        [{"name": "language", "value": "eng"}],
        [],
    ]
    assert ratings["rated_at"].to_list() == [None] * 4
    assert "1 years outside 1000 to 2999 are left empty" in said
    source = Source.read(tmp_path / "to")
    assert (source.name, source.licence, source.domain) == ("Goodbooks-10k", "CC BY-SA 4.0", "books")
    assert (source.feedback.low, source.feedback.high) == (3, 5)


def test_goodreads(crs: Import) -> None:
    words = ("--ratings", SETS / "goodreads/interactions.jsonl", "--items", SETS / "goodreads/books.jsonl")
    items, ratings, said = crs(*words, "--no-rating", 0, "--domain", "books")
    assert items.select("title", "year", "makers").rows() == [("North of Here", 2006, []), ("Small Hours", None, [])]
    assert ratings.rows() == [("a", "10", 5.0, 1365786771), ("b", "10", 3.0, None), ("b", "11", 1.0, 1357344000)]
    assert "1 rows that rate nothing" in said


def test_book_crossing(crs: Import, tmp_path: Path) -> None:
    words = ("--ratings", SETS / "bookcrossing/BX-Book-Ratings.csv", "--items", SETS / "bookcrossing/BX-Books.csv")
    with pytest.raises(CrsError, match=r"1 of 4 ratings are 0, beside ratings from 5 to 10; say --no-rating 0 .*none"):
        crs(*words)
    assert not (tmp_path / "to").exists()
    items, ratings, said = crs(*words, "--no-rating", 0, "--domain", "books")
    assert items.select("title", "year", "makers").rows() == [
        ("Café & Stones", 2001, ["Ada Quill"]),
        ('Say "No"; then go', None, ["Ben Ito"]),
    ]
    assert ratings.rows() == [("276726", "0000000028", 5.0, None), ("276727", "000000001X", 10.0, None)]
    assert "read as cp1252, because it is not UTF-8" in said
    assert "1 ratings of 1 items that are not described" in said
    assert Source.read(tmp_path / "to").feedback.none == 0
    assert crs(*words, "--no-rating", "none")[1].height == 3


def test_last_fm(crs: Import, tmp_path: Path) -> None:
    files = [SETS / "lastfm" / f"{name}.dat" for name in ("user_artists", "artists", "user_taggedartists", "tags")]
    items, ratings, said = crs("--ratings", files[0], "--items", files[1], "--tags", files[2], "--tags", files[3])
    assert items["title"].to_list() == ['The "Salt" Choir', "Malmö Nord", "Two Rooms"]
    assert items["kinds"].to_list() == [[], ["chillout", "downtempo"], []]
    expected = [1.0, math.log(11691) / math.log(13884), math.log(12) / math.log(13884), 1.0]
    assert ratings["rating"].to_list() == pytest.approx(expected)
    assert "read as counts in weight" in said
    assert Source.read(tmp_path / "to").feedback.kind == "counts"


def test_steam(crs: Import, tmp_path: Path) -> None:
    words = ("--ratings", SETS / "steam/steam_reviews.json", "--items", SETS / "steam/steam_games.json")
    with pytest.raises(CrsError, match="there is no domain 'games'; shipped are books, movies"):
        crs(*words, "--domain", "games")
    (own := tmp_path / "games.yaml").write_text(
        path_of("books").read_text(encoding="utf-8").replace("name: books", "name: games"), encoding="utf-8"
    )
    items, ratings, said = crs(*words, "--domain", own)
    own.unlink()  # the folder has the words: it may be moved
    assert tables.domain_of(tmp_path / "to").name == "games"
    assert items.select("item_id", "title", "year", "kinds", "makers").rows() == [
        ("328100", "Iron Quay", 2017, ["strategy"], ["Moss", "Fern"]),
        ("725280", "Lost Lamp", 2018, ["action", "casual"], ["Kotori"]),
    ]
    assert ratings.select("user_id", "item_id", "rated_at").rows() == [
        ("Bo", "328100", 1513468800),
        ("Bo", "725280", 1514851200),
        ("Chaos é", "725280", 1513468800),
    ]
    assert "each line is a Python literal" in said and "read as counts in hours" in said


def test_python_in_a_line_is_never_run(tmp_path: Path, crs: Import) -> None:
    path = tmp_path / "evil.json"
    path.write_text(f"{{'user_id': 'a', 'item_id': __import__('os').system('touch {tmp_path}/run')}}\n")
    with pytest.raises(CrsError, match="line 1: neither JSON nor a Python literal"):
        crs("--ratings", path)
    assert not (tmp_path / "run").exists()


def test_presence_is_asked_for(crs: Import, tmp_path: Path) -> None:
    rated = tmp_path / "clicks.csv"
    rated.write_text("user_id,item_id,title\na,1,Heat\na,1,Heat\nb,2,Up\n")
    with pytest.raises(CrsError, match=r"no column rating; .*--feedback presence"):
        crs("--ratings", rated)
    _, ratings, said = crs("--ratings", rated, "--feedback", "presence")
    assert ratings.select("user_id", "item_id", "rating").rows() == [("a", "1", 1.0), ("b", "2", 1.0)]
    assert "1 further rows of a user and item" in said and "read as presence only" in said


def test_columns_of_any_name(crs: Import, tmp_path: Path) -> None:
    rated, items = tmp_path / "r.csv", tmp_path / "i.csv"
    rated.write_text("who;what;mark\na;1;4\n")
    items.write_text("what;label;topics;house\n1;Heat;poetry; thriller\n".replace("; thriller", "/x;North"))
    given = ("user_id=who", "item_id=what", "rating=mark", "title=label", "kinds=topics", "publisher=house")
    words = [word for pair in given for word in ("--column", pair)]
    table, ratings, _ = crs("--ratings", rated, "--items", items, *words, "--domain", "books")
    assert ratings.rows() == [("a", "1", 4.0, None)]
    assert table.select("title", "kinds").rows() == [("Heat", ["poetry/x"])]
    assert table["attributes"].to_list() == [[{"name": "publisher", "value": "North"}]]


def test_movielens_takes_no_other_files(tmp_path: Path) -> None:
    words = ["data", "import", "--movielens", "z.zip", "--items", "f.csv", "--to", str(tmp_path / "to")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "leave --ratings, --items, --tags and --column out" in result.output


@pytest.mark.parametrize("form", set_files.FORMS)
def test_the_same_readers_come_out_of_every_form(form: str, tmp_path: Path) -> None:
    command, numbers = set_files.imported(form, tmp_path)
    assert command.startswith("crs data import --")
    # Two of the forty like none of their six hidden books.
    assert numbers == {"items": 60, "ratings": 1200, "users": 40, "eligible": 38}
    source = Source.read(tmp_path / "to")
    assert ("LICENSE-movielens.txt" in source.licence) == (form == "MovieLens")
    expected = books.ratings()["rating"] * (2 if form == "Book-Crossing" else 1)
    if source.feedback.kind == "marks":
        assert tables.load(tmp_path / "to")[1]["rating"].sum() == expected.sum()
