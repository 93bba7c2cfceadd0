"""Imports of your own data, and every error in them."""

import gzip
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from crslib import schemas
from crslib.data import cells, imports, tables
from crslib.data.catalog import Catalog
from crslib.dialogue import utterances
from crslib.errors import CrsError
from tests.support.domains import MOVIES

ITEMS = (
    "item_id,title,year,genres,directors,cast,imdb_id\n"
    "1,Heat,1995,Crime|Action,Michael Mann,Al Pacino|Robert De Niro,0113277\n"
    "2,Up,2009,,,,\n"
)
RATINGS = "user_id,item_id,rating,rated_at\nb,1,4,1000\na,2,3.5,\na,1,5,2000\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(content: str | bytes, name: str = "ratings.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


def refused(tmp_path: Path, ratings: Path, items: Path | None) -> str:
    """The sentence of a refused import that wrote nothing."""
    with pytest.raises(CrsError) as caught:
        imports.import_ratings(ratings, items, tmp_path / "to")
    assert not list((tmp_path / "to").glob("*")), "nothing is written"
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_cells_are_split_into_genres_and_names() -> None:
    assert cells.split_kinds("Sci-Fi|Children|IMAX|Action", MOVIES.files.kinds) == ["action", "family", "sci-fi"]
    assert cells.split_kinds("(no genres listed)", MOVIES.files.kinds) == cells.split_kinds(None) == []
    assert cells.split_names("Ed Begley, Jr., Al Pacino, Al Pacino, Alex Ruspoli, 9th Prince of Cerveteri") == [
        "Ed Begley, Jr.",
        "Al Pacino",
        "Alex Ruspoli",
    ]
    assert cells.split_names("Harry, the Cat|Al Pacino") == ["Harry, the Cat", "Al Pacino"]


PLACEHOLDERS = ["-", "--", "—", "\\N", "N/A", "n/a", "NA", "null", "None", "nan", "?", "...", "#N/A"]


@pytest.mark.parametrize("sign", PLACEHOLDERS)
def test_placeholders_are_no_names(sign: str, tmp_path: Path, write: Callable[..., Path]) -> None:
    assert cells.split_kinds(f"{sign}|Action") == ["action"]
    assert cells.split_kinds(sign) == cells.split_names(sign) == []
    assert cells.split_names(f"Al Pacino, {sign}") == ["Al Pacino"]
    header = "item_id,title,year,genres,directors,cast,imdb_id"
    items = f"{header}\n1,Heat,{sign},{sign},{sign},Al Pacino|{sign},{sign}\n2,-,1990,a,,,\n"
    rated = "user_id,item_id,rating\na,1,4\na,2,3\n"
    imported = imports.import_ratings(write(rated), write(items, "items.csv"), tmp_path / "to")
    assert str(imported).endswith("; 5 cells like '-' or 'N/A' read as not given")
    heat, dash = tables.load(tmp_path / "to")[0].to_dicts()
    assert (heat["year"], heat["kinds"], heat["makers"], heat["external_id"]) == (None, [], [], None)
    assert (heat["people"], dash["title"]) == (["Al Pacino"], "-")  # a title may be anything


def test_names_that_only_resemble_placeholders_stay() -> None:
    names = ["Na", "Nan Goldin", "None So Blind", "M-", "Null Object", "R.N.", "N"]
    assert cells.split_names("|".join(names)) == names
    assert cells.split_kinds("sci-fi|r&b") == ["r&b", "sci-fi"]


# ── imports that succeed ────────────────────────────────────────────────────────────────────────────────────────


def test_csv_is_imported(tmp_path: Path, write: Callable[..., Path]) -> None:
    imported = imports.import_ratings(write(RATINGS), write(ITEMS, "items.csv"), tmp_path / "to")
    assert str(imported) == "2 items, 3 ratings of 2 users"
    items, ratings = tables.load(tmp_path / "to")
    assert ratings.rows() == [("a", "1", 5.0, 2000), ("a", "2", 3.5, None), ("b", "1", 4.0, 1000)]
    assert items.rows() == [
        (
            "1",
            "Heat",
            1995,
            ["action", "crime"],
            ["Michael Mann"],
            ["Al Pacino", "Robert De Niro"],
            [],
            "tt0113277",
            2,
            4.5,
        ),
        ("2", "Up", 2009, [], [], [], [], None, 1, 3.5),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_import_knows_usual_names_delimiters_and_marks(
    tmp_path: Path, write: Callable[..., Path], delimiter: str, newline: str
) -> None:
    def text(*rows: str) -> bytes:
        return b"\xef\xbb\xbf" + (newline.join(rows).replace(",", delimiter) + newline).encode()

    ratings = write(text("userId,movieId,Rating,timestamp,", "7,1,4.0,1577836800.0,x"))
    items = write(text("movieId,Name,Genre", '1,"The ""Up"" (2009)",Action'), "weird[1]*?.csv")
    imports.import_ratings(ratings, items, tmp_path / "to")
    items_written, rated = tables.load(tmp_path / "to")
    assert rated.rows() == [("7", "1", 4.0, 1577836800)]
    assert items_written.select("item_id", "title", "year", "kinds").rows() == [("1", 'The "Up"', 2009, ["action"])]


def test_import_of_parquet_equals_import_of_csv(tmp_path: Path, write: Callable[..., Path]) -> None:
    imports.import_ratings(write(RATINGS), write(ITEMS, "items.csv"), tmp_path / "csv")
    pl.DataFrame(
        {
            "user_id": ["b", "a", "a"],
            "item_id": [1.0, 2.0, 1.0],
            "rating": [4.0, 3.5, 5.0],
            "rated_at": [datetime.fromtimestamp(1000, UTC), None, datetime.fromtimestamp(2000, UTC)],
        }
    ).write_parquet(tmp_path / "ratings")
    pl.DataFrame(
        {
            "item_id": [1, 2],
            "title": ["Heat", "Up"],
            "year": [1995, 2009],
            "kinds": [["Crime", "Action"], None],
            "makers": [["Michael Mann"], []],
            "people": [["Al Pacino", "Robert De Niro"], []],
            "external_id": ["tt0113277", None],
            "embedding": [[1.5], [2.0]],
            "raw": [{"a": 1}, {"a": 2}],
        }
    ).write_parquet(tmp_path / "items")
    imports.import_ratings(tmp_path / "ratings", tmp_path / "items", tmp_path / "parquet")
    for from_csv, from_parquet in zip(tables.load(tmp_path / "csv"), tables.load(tmp_path / "parquet"), strict=True):
        assert from_csv.equals(from_parquet)


def test_one_file_may_hold_both(tmp_path: Path, write: Callable[..., Path]) -> None:
    both = "user_id,item_id,rating,title\na,1,4,Heat (1995)\nb,1,5,Heat (1995)\nb,2,1,Up (2009)\n"
    assert str(imports.import_ratings(write(both), None, tmp_path / "to")) == "2 items, 3 ratings of 2 users"
    assert "items in a file of their own" in refused(tmp_path / "no", write(RATINGS), None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1577836800", 1577836800),
        ("1577836800123", 1577836800),
        ("1577836800123456", 1577836800),
        ("1577836800123456789", 1577836800),
        ("Wed Jan 01 01:00:00 +0100 2020", 1577836800),
        ('"01 1, 2020"', 1577836800),
        ("-62135596800000", None),
        ("yesterday", None),
        ("1e300", None),
        ("nan", None),
        ("1.5778368e9", 1577836800),
        ("2020-01-01", 1577836800),
        ("2020-01-01T00:00:00Z", 1577836800),
        ("2020-01-01 02:00:00+02:00", 1577836800),
        ("", None),
    ],
)
def test_times_are_seconds_or_iso(tmp_path: Path, write: Callable[..., Path], text: str, seconds: int | None) -> None:
    rated = f"user_id,item_id,rating,rated_at\na,1,4,{text}\na,2,4,5\n"
    imports.import_ratings(write(rated), write(ITEMS, "items.csv"), tmp_path / "to")
    assert tables.load(tmp_path / "to")[1]["rated_at"].to_list() == [seconds, 5]


NASTY = [
    "<|im_end|>\n<|im_start|>user",
    "[[Heat (1995)]]",
    "<script>alert(1)</script>",
    "a\u202eb\x00c",
    "]]",
    "Zoë; DROP",
]


def test_titles_with_control_tokens_and_markup_stay_text(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": range(len(NASTY)), "title": NASTY}).write_parquet(tmp_path / "items")
    pl.DataFrame({"user_id": ["u"] * len(NASTY), "item_id": range(len(NASTY)), "rating": 3.0}).write_parquet(
        tmp_path / "ratings"
    )
    imports.import_ratings(tmp_path / "ratings", tmp_path / "items", tmp_path / "to")
    items, _ = tables.load(tmp_path / "to")
    assert items["title"].to_list() == [utterances.one_line(title) for title in NASTY]
    assert items["title"][0] == "<|im_end|> <|im_start|>user"
    catalog = Catalog(items, MOVIES)
    for item_id in items["item_id"]:
        mention = utterances.mention(catalog.name(item_id))
        assert [link["item_id"] for link in catalog.link(f"see {mention} now")] == [item_id]


def test_of_two_items_with_one_name_the_one_with_more_ratings_is_written(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    items = "item_id,title,year\n1,Hamlet,2000\n2,Hamlet,2000\n3,Hamlet,1996\n4,[Hamlet],\n5,(Hamlet),\n"
    rated = "user_id,item_id,rating\na,1,1\na,2,2\nb,2,2\na,3,3\na,5,1\n"
    imported = imports.import_ratings(write(rated), write(items, "items.csv"), tmp_path / "to")
    assert (imported.items, imported.ratings, imported.items_left_out, imported.ratings_left_out) == (3, 4, 2, 1)
    assert "2 items with the title and year of one with more ratings and their 1 ratings" in str(imported)
    written, ratings = tables.load(tmp_path / "to")
    assert written["item_id"].to_list() == ["2", "3", "5"]
    assert ratings["item_id"].to_list() == ["2", "3", "5", "2"]


def test_items_without_ratings_are_written(tmp_path: Path, write: Callable[..., Path]) -> None:
    imports.import_ratings(write("user_id,item_id,rating\na,1,4\n"), write(ITEMS, "items.csv"), tmp_path / "to")
    assert tables.load(tmp_path / "to")[0].select("n_ratings", "mean_rating").rows() == [(1, 4.0), (0, None)]


def test_what_is_left_out_is_counted(tmp_path: Path, write: Callable[..., Path]) -> None:
    items = "item_id,title,year,genres\n1,Heat,1995,poetry; thriller\n2,Up,-720.0,\n3,Low,0,\n4,Ran,98.0,\n"
    rated = "user_id,item_id,rating,rated_at,mood\na,1,4,5,x\nb,9,4,5,x\nb,8,4,5,x\nb,8,3,5,x\na,2,2,-1,y\n"
    imported = imports.import_ratings(write(rated), write(items, "items.csv"), tmp_path / "to")
    counted = (imported.items, imported.ratings, imported.users, imported.unknown_items, imported.of_unknown_items)
    assert counted == (4, 2, 1, 2, 3)
    assert (imported.odd_times, imported.odd_years, imported.duplicates, imported.not_rated) == (1, 3, 0, 0)
    assert [line for line in imported.lines if "not used: mood" in line]
    written, ratings = tables.load(tmp_path / "to")
    assert written["kinds"].to_list() == [["poetry", "thriller"], [], [], []]
    assert ratings.rows() == [("a", "1", 4.0, 5), ("a", "2", 2.0, None)]


def test_a_byte_order_mark_and_other_encodings_are_understood(tmp_path: Path, write: Callable[..., Path]) -> None:
    text = "item_id,title\n1,Café – Nord\n"
    for number, content in enumerate((text.encode("utf-8-sig"), text.encode("cp1252"))):
        imports.import_ratings(
            write("user_id,item_id,rating\na,1,4\n"), write(content, "i.csv"), tmp_path / str(number)
        )
        assert tables.load(tmp_path / str(number))[0]["title"].to_list() == ["Café – Nord"]
    latin = write("item_id,title\n1,Caf\xe9 \x81\n".encode("latin-1"), "i.csv")  # no byte 81 in Windows-1252
    imported = imports.import_ratings(write("user_id,item_id,rating\na,1,4\n"), latin, tmp_path / "2")
    assert [line for line in imported.lines if "read as latin-1" in line]


# ── imports that are refused ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("user_id,item_id,score\na,1,4\n", ["ratings.csv has no column rating", "rename", "user_id, item_id, score"]),
        ("user_id,item_id,rating\na,1,four\n", ["row 1", "rating 'four'", "correct it"]),
        ("user_id,item_id,rating\na,1,4\na,2,nan\n", ["row 2", "rating 'nan'"]),
        ("user_id,item_id,rating\na,1,inf\n", ["row 1", "rating 'inf'", "finite"]),
        ('user_id,item_id,rating\na,1,"4,5"\n', ["row 1", "'4,5'"]),
        ("user_id,item_id,rating\na,1,\n", ["row 1", "rating is missing"]),
        ("user_id,item_id,rating\na,1,4\n ,2,4\n", ["row 2", "user_id is missing"]),
        ("user_id,item_id,rating\na,,4\n", ["row 1", "item_id is missing"]),
        ("user_id,item_id,rating\na,1,4\nb,1,4\na,1,5\n", ["rows 1 and 3", "'a'", "'1'", "twice", "keep one"]),
        ("user_id,item_id,rating\na,8,4\na,9,5\n", ["none of its 2 rated items", "'8'", "--column item_id=COLUMN"]),
        ("user_id,item_id,rating,rated_at\na,1,4,yesterday\n", ["row 1", "rated_at 'yesterday'", "ISO"]),
        ("user_id,item_id,rating,rated_at\na,1,4,epoch\n", ["row 1", "rated_at 'epoch'"]),
        ("user_id,item_id,rating,rated_at\na,1,4,-1577836800000\n", ["row 1", "-1577836800000", "seconds"]),
        ("", ["is empty"]),
        ("\n \n", ["is empty"]),
        ("user_id,item_id,rating\n", ["no rows"]),
        ("\nuser_id,item_id,rating\na,1,4\n", ["begins with an empty line"]),
        ("user_id,item_id,rating\r\na,1,4\nb,1,4\r\n", ["ends its lines in different ways"]),
        ("user_id,item_id,rating\na,1,4\na,2,4,5\n", ["line 3", "4 fields", "3"]),
        ("user_id,item_id,rating\na,1\n", ["line 2", "2 fields"]),
        ('user_id,item_id,rating\na,"1,4\n', ["line 2", "quoted field does not end"]),
        (b"user_id,item_id,rating\na,\xe9,4\n", ["none of its 1 rated items", "'é'"]),
        (b"\xe9,item_id,rating\na,1,4\n", ["no column user_id", "columns here: é, item_id, rating"]),
        (b"\xff\xfe" + "user_id,item_id,rating\na,1,4\n".encode("utf-16-le"), ["UTF-16", "save it in UTF-8"]),
        ("user_id,item_id,rating\na,1,4\n".encode("utf-16-le"), ["UTF-16", "save it in UTF-8"]),
        ("user_id,item_id,rating\na,1," + "4" * 2_100_000 + "\n", ["a line is longer than 2 MB"]),
        (gzip.compress(b"user_id,item_id,rating\na,1,4\n" * 9, mtime=0)[:-9], ["no whole", "download it again"]),
        (b"BZh9 and more", ["packed by bzip2; unpack it"]),
        (b"7z\xbc\xaf\x27\x1c", ["7z archive; unpack it"]),
        ('[{"user_id": "a"}]', ["one JSON list", "one record a line"]),
        ('{"user_id": "a", "item_id": "1", "rating": 4}\n{"user_id"\n', ["line 2", "no JSON object"]),
        ('{"user_id": "a", "item_id": "1", "rating": [4]}\n', ["row 1", "rating '[4]'"]),
        ("{" * 5000 + "\n", ["JSON"]),
        ("user_id,item_id,rating\na,1,0\na,2,7\n", ["1 of 2 ratings are 0", "--no-rating 0 ", "--no-rating none"]),
        ("user_id,item_id,rating\na,1,4\n".encode("utf-16"), ["UTF-8"]),
        (bytes(range(256)) * 8, ["neither CSV"]),
        (b"PAR1 but then not", ["not a readable Parquet file"]),
        (b"PK\x03\x04 a spreadsheet", ["ZIP", "unpack"]),
        ("user_id,userid,item_id,rating,rating\na,a,1,4,4\n", ["two columns 'rating'"]),
        ("user_id,item_id,movieId,UserId,rating,timestamp,RatedAt\na,1,1,a,4,1,1\n", ["'timestamp' and 'RatedAt'"]),
    ],
)
def test_wrong_ratings_are_refused(
    tmp_path: Path, write: Callable[..., Path], content: str | bytes, words: list[str]
) -> None:
    sentence = refused(tmp_path, write(content), write(ITEMS, "items.csv"))
    for word in (str(tmp_path / "ratings.csv"), *words):
        assert word in sentence


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("item_id,year\n1,1999\n", ["no column title"]),
        ("item_id,title\n1,Heat\n,Up\n", ["row 2", "item_id is missing"]),
        ("item_id,title\n1,Heat\n2,  \n", ["row 2", "title is missing"]),
        ("item_id,title\n1,Heat\n2,\u200b\n", ["row 2", "no visible character"]),
        ("item_id,title\n1,Heat\n2,Up\n1,Heat\n", ["rows 1 and 3", "item '1'"]),
        ("item_id,title,year\n1,Heat,MCMXCV\n", ["row 1", "year 'MCMXCV'"]),
        ("item_id,title,year\n1,Heat,95\n", ["row 1", "year '95'"]),
    ],
)
def test_wrong_items_are_refused(tmp_path: Path, write: Callable[..., Path], content: str, words: list[str]) -> None:
    sentence = refused(tmp_path, write(RATINGS), write(content, "items.csv"))
    for word in (str(tmp_path / "items.csv"), *words):
        assert word in sentence


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe" in refused(tmp_path, tmp_path / "pipe", None)


def test_missing_files_are_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    assert "No such file" in refused(tmp_path, tmp_path / "none.csv", None)
    assert "directory" in refused(tmp_path, tmp_path, None).lower()
    with pytest.raises(CrsError, match="run `crs data build`"):
        tables.load(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CrsError, match="cannot write"):
        imports.import_ratings(write(RATINGS), write(ITEMS, "items.csv"), tmp_path / "file" / "to")
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(CrsError, match="cannot write"):
            imports.import_ratings(write(RATINGS), write(ITEMS, "items.csv"), tmp_path / "closed")


def test_a_failed_import_leaves_the_old_data(tmp_path: Path, write: Callable[..., Path]) -> None:
    imports.import_ratings(write(RATINGS), write(ITEMS, "items.csv"), tmp_path / "to")
    before = {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()}
    with pytest.raises(CrsError):
        imports.import_ratings(write("user_id,item_id,rating\na,9,4\n"), write(ITEMS, "items.csv"), tmp_path / "to")
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == before


def test_load_refuses_ratings_of_unknown_items(tmp_path: Path, write: Callable[..., Path]) -> None:
    imports.import_ratings(write(RATINGS), write(ITEMS, "items.csv"), tmp_path / "to")
    schemas.empty("items").write_parquet(tmp_path / "to" / "items.parquet")
    with pytest.raises(CrsError, match="rates item '1'"):
        tables.load(tmp_path / "to")
    (tmp_path / "to" / "items.parquet").write_bytes(b"junk")
    with pytest.raises(CrsError, match="not a readable Parquet file"):
        tables.load(tmp_path / "to")


def test_ids_with_leading_zeros_are_text_and_sorted_as_text(tmp_path: Path, write: Callable[..., Path]) -> None:
    items = "item_id,title\n7,Heat\n007,Up\n10,Ran\n"
    for others, first in (("10", "10"), ("007", "007")):
        rated = f"user_id,item_id,rating\n9,7,4\n10,7,3\n10,{others},2\n"
        imports.import_ratings(write(rated), write(items, "items.csv"), tmp_path / first)
        _, ratings = tables.load(tmp_path / first)
        assert ratings.select("user_id", "item_id").rows() == [("10", first), ("10", "7"), ("9", "7")]


def test_numbers_and_other_ids_give_the_same_tables(tmp_path: Path, write: Callable[..., Path]) -> None:
    """Files of numbers are read in a way of their own: with a letter before each id the same must come out."""
    rows = [(n % 7, n % 11, n % 5 + 1, (1000 * n) ** 2) for n in range(1, 70)]
    results = []
    for letter in ("", "x"):
        rated = "".join(f"{letter}{u},{letter}{i},{r},{t}\n" for u, i, r, t in rows)
        items = "item_id,title\n" + "".join(f"{letter}{i},Film {i}\n" for i in range(11))
        imports.import_ratings(
            write(f"user_id,item_id,rating,rated_at\n{rated}"), write(items, "i.csv"), tmp_path / "a"
        )
        _, ratings = tables.load(tmp_path / "a")
        results.append(ratings.with_columns(pl.col("user_id", "item_id").str.strip_prefix("x")))
    assert results[0].height == 69
    assert results[0].equals(results[1])
