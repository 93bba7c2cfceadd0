"""MovieLens archives as data folders."""

import zipfile
from pathlib import Path

import pytest

from crslib.data import imports, movielens, tables
from crslib.data.catalog import Catalog
from crslib.data.source import Source
from crslib.errors import CrsError
from tests.support.domains import MOVIES


@pytest.mark.parametrize(
    ("title", "main", "others"),
    [
        ("Godfather, The", "The Godfather", []),
        ("Seven (a.k.a. Se7en)", "Seven", ["Se7en"]),
        (
            "City of Lost Children, The (Cité des enfants perdus, La)",
            "The City of Lost Children",
            ["La Cité des enfants perdus"],
        ),
        ("Babies (Bébé(s))", "Babies", ["Bébé(s)"]),
        ("(500) Days of Summer", "(500) Days of Summer", []),
        ("Birdman: Or (The Unexpected Virtue of Ignorance)", "Birdman: Or (The Unexpected Virtue of Ignorance)", []),
        ("Human Centipede II (Full Sequence), The", "The Human Centipede II (Full Sequence)", []),
        ("Eclisse, L' (Eclipse)", "L'Eclisse", ["Eclipse"]),
        ("One, Two, Three", "One, Two, Three", []),
        (
            "Alice, Sweet Alice (a.k.a. Communion) (a.k.a. Holy Terror)",
            "Alice, Sweet Alice",
            ["Communion", "Holy Terror"],
        ),
    ],
)
def test_titles_of_movielens_are_split(title: str, main: str, others: list[str]) -> None:
    assert movielens.split_title(title) == (main, others)


LATEST = {
    "movies.csv": (
        'movieId,title,genres\n1,"Godfather, The (1972)",Crime|Drama\n'
        '2,"Postman, The (Postino, Il) (1994)",Children|IMAX\n'
    ),
    "ratings.csv": "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n1,2,3.5,964982703\n",
    "links.csv": "movieId,imdbId,tmdbId\n1,0068646,238\n2,0110877,\n",
}
ML1M = {
    "movies.dat": "1::Godfather, The (1972)::Crime|Drama\n2::Postman, The (Postino, Il) (1994)::Children's\n",
    "ratings.dat": "1::1::4::964982703\n1::2::3.5::964982703\n",
}
ML100K = {
    "u.item": (
        "1|Godfather, The (1972)|01-Jan-1972||http://x/|0|0|0|0|0|0|1|0|1|0|0|0|0|0|0|0|0|0|0\n"
        "2|Postman, The (Postino, Il) (1994)|01-Jan-1994||http://x/|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    ),
    "u.data": "1\t1\t4\t964982703\n1\t2\t3.5\t964982703\n",
}


@pytest.mark.parametrize("files", [LATEST, ML1M, ML100K], ids=["latest", "1m", "100k"])
@pytest.mark.parametrize("form", ["folder", "inner folder", "zip"])
def test_movielens_layouts_are_imported(tmp_path: Path, files: dict[str, str], form: str) -> None:
    source = tmp_path / "ml"
    inner = source / "ml-x" if form == "inner folder" else source
    inner.mkdir(parents=True)
    for name, text in files.items():
        (inner / name).write_text(text, encoding="latin-1")
    if form == "zip":
        source = tmp_path / "ml.zip"
        with zipfile.ZipFile(source, "w") as archive:
            archive.writestr("../../outside.txt", "never unpacked")
            for name in files:
                archive.write(inner / name, f"ml-x/{name}")
    imported = movielens.import_movielens(source, tmp_path / "a" / "b" / "to")
    assert (imported.items, imported.ratings, imported.users) == (2, 2, 1)
    items, ratings = tables.load(tmp_path / "a" / "b" / "to")
    assert items.select("item_id", "title", "year", "kinds").rows() == [
        ("1", "The Godfather", 1972, ["crime", "drama"]),
        ("2", "The Postman", 1994, ["family"]),
    ]
    assert items["external_id"].to_list() == (["tt0068646", "tt0110877"] if files is LATEST else [None, None])
    assert ratings.rows() == [("1", "1", 4.0, 964982703), ("1", "2", 3.5, 964982703)]
    assert not list(tmp_path.rglob("outside.txt"))


def test_older_archives_are_latin_1(tmp_path: Path) -> None:
    (tmp_path / "movies.dat").write_bytes("1::Misérables, Les (1995)::Drama\n".encode("latin-1"))
    (tmp_path / "ratings.dat").write_text("1::1::4::1\n")
    movielens.import_movielens(tmp_path, tmp_path / "to")
    assert tables.load(tmp_path / "to")[0]["title"].to_list() == ["Les Misérables"]


def test_wrong_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sentence(path: Path) -> str:
        with pytest.raises(CrsError) as caught:
            movielens.import_movielens(path, tmp_path / "to")
        assert not (tmp_path / "to").exists()
        return str(caught.value)

    assert "No such file" in sentence(tmp_path / "none.zip")
    (tmp_path / "text.zip").write_text("not a zip")
    assert "not a whole ZIP archive" in sentence(tmp_path / "text.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("train_data.jsonl", "{}")
        archive.writestr("movies.csv", "movieId,title\n1,Heat\n")
    assert "holds no MovieLens data; it needs ratings.csv and movies.csv" in sentence(tmp_path / "other.zip")
    assert "holds no MovieLens data" in sentence(tmp_path)
    with zipfile.ZipFile(tmp_path / "ml.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in LATEST.items():
            archive.writestr(f"ml/{name}", text * 50)
    whole = (tmp_path / "ml.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    assert "not a whole ZIP archive" in sentence(tmp_path / "cut.zip")
    damaged = bytearray(whole)
    damaged[60:90] = bytes(30)
    (tmp_path / "damaged.zip").write_bytes(damaged)
    assert "not a whole ZIP archive" in sentence(tmp_path / "damaged.zip")
    monkeypatch.setattr(movielens, "_LARGEST_MEMBER", 1000)
    assert "larger than MovieLens files are" in sentence(tmp_path / "ml.zip")


def test_errors_in_an_archive_name_archive_and_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        for name, text in {**LATEST, "ratings.csv": LATEST["ratings.csv"] + "1,2,x,1\n"}.items():
            archive.writestr(name, text)
    with pytest.raises(CrsError, match=r"ml.zip/ratings.csv, row 3: rating 'x' is not a finite number"):
        movielens.import_movielens(tmp_path / "ml.zip", tmp_path / "to")


def test_an_encrypted_archive_is_named_as_such(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        for name, text in LATEST.items():
            archive.writestr(name, text)
    content = bytearray((tmp_path / "ml.zip").read_bytes())
    for start in range(len(content) - 4):  # the flag of each member, in its own and in the central header
        offset = {b"PK\x03\x04": 6, b"PK\x01\x02": 8}.get(bytes(content[start : start + 4]))
        if offset:
            content[start + offset] |= 1
    (tmp_path / "ml.zip").write_bytes(content)
    with pytest.raises(CrsError, match="is encrypted; unpack it with its password"):
        movielens.import_movielens(tmp_path / "ml.zip", tmp_path / "to")


def test_movielens_latest_small_is_imported(tmp_path: Path, shared_data: Path) -> None:
    imported = movielens.import_movielens(shared_data / "ml-latest-small", tmp_path)
    assert (imported.items + imported.items_left_out, imported.ratings + imported.ratings_left_out, imported.users) == (
        9742,
        100836,
        610,
    )
    assert imported.items_left_out < 10
    items, _ = tables.load(tmp_path)
    catalog = Catalog(items, MOVIES)
    assert all(catalog.find(catalog.name(item_id)) == item_id for item_id in items["item_id"])


def test_what_is_not_stated_of_the_source_is_movielens(tmp_path: Path) -> None:
    for name, text in LATEST.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
    stated = imports.Options(source=Source.stated(name="My MovieLens"))
    movielens.import_movielens(tmp_path, tmp_path / "to", stated)
    source = Source.read(tmp_path / "to")
    assert (source.name, source.licence) == ("My MovieLens", movielens.SOURCE.licence)
    assert "data/LICENSE-movielens.txt" in source.licence and source.citation.startswith("F. Maxwell Harper")
