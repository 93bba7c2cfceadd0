"""A MovieLens archive, zipped or unpacked, as a data folder."""

import re
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

import polars as pl

from crslib.data import text_tables
from crslib.data.imports import ITEM_COLUMNS, parse_items, parse_ratings, select_columns
from crslib.data.tables import Imported, write
from crslib.dialogue.utterances import one_line
from crslib.errors import CrsError

_ARTICLE = r"The|A|An|La|Le|Les|L'|El|Los|Las|Il|Lo|I|Das|Der|Die|Un|Une|Una|Da|Det"
_PARENTHESIS = r"\((?:[^()]|\([^()]*\))*\)"
_LAYOUTS = (("ratings.csv", "movies.csv"), ("ratings.dat", "movies.dat"), ("u.data", "u.item"))
_ML100K_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_FIELDS = {
    "ratings.dat": ("::", ["user_id", "item_id", "rating", "rated_at"]),
    "movies.dat": ("::", ["item_id", "title", "kinds"]),
    "u.data": ("\t", ["user_id", "item_id", "rating", "rated_at"]),
    "u.item": ("|", ["item_id", "title", "released", "video", "url", *_ML100K_GENRES]),
}
_LARGEST_MEMBER = 4 << 30  # bytes unpacked; the largest MovieLens file has 0.9 GB


def import_movielens(path: Path, folder: Path) -> Imported:
    """Writes `items.parquet` and `ratings.parquet` into `folder` from a MovieLens archive, zipped or unpacked.

    Layouts: ml-latest, ml-32m and similar ones (`.csv`), ml-1m and ml-10m (`.dat`), ml-100k (`u.data`). Raises
    `CrsError` when `path` has none of them.
    """
    with tempfile.TemporaryDirectory() as unpacked:
        files = _known_files(path, Path(unpacked))
        ratings_name, items_name = next(layout for layout in _LAYOUTS if files.keys() >= set(layout))
        ratings, items = (_read(files[name], path / name) for name in (ratings_name, items_name))
        if items_name == "u.item":
            flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _ML100K_GENRES]
            items = items.with_columns(pl.concat_str(flags, separator="|", ignore_nulls=True).alias("kinds"))
        items = select_columns(items, path / items_name, ("item_id", "title"), ITEM_COLUMNS)
        if "links.csv" in files:
            label = path / "links.csv"
            links = select_columns(_read(files["links.csv"], label), label, ("item_id", "external_id"), ())
            links = links.unique("item_id", keep="first", maintain_order=True)
            items = items.join(links, on="item_id", how="left", maintain_order="left")
        items = parse_items(items, path / items_name)
        items = items.with_columns(pl.Series("title", [split_title(title)[0] for title in items["title"]]))
        ratings = select_columns(ratings, path / ratings_name, ("user_id", "item_id", "rating"), ("rated_at",))
        return write(items, parse_ratings(ratings, path / ratings_name, items), folder)


def split_title(title: str) -> tuple[str, list[str]]:
    """A MovieLens title as its main title and the alternatives that follow in parentheses, all in natural order.

    `City of Lost Children, The (Cité des enfants perdus, La)` gives `The City of Lost Children` and
    `[La Cité des enfants perdus]`.
    """
    matched = re.fullmatch(rf"(.*?)((?: {_PARENTHESIS})*)", title.strip(), re.DOTALL)
    main, rest = matched.groups() if matched else (title, "")
    if not main or main.endswith(": Or"):  # "(500) Days of Summer", "Birdman: Or (The Unexpected Virtue …)"
        return _natural_order(title), []
    alternatives = [re.sub(r"^a\.?k\.?a\.? ", "", part[1:-1].strip()) for part in re.findall(_PARENTHESIS, rest)]
    return _natural_order(main), [_natural_order(alternative) for alternative in alternatives]


def _natural_order(title: str) -> str:
    """`Godfather, The` as `The Godfather`."""
    inverted = re.fullmatch(rf"(.+), ({_ARTICLE})", title.strip())
    if not inverted:
        return title.strip()
    return inverted[2] + ("" if inverted[2].endswith("'") else " ") + inverted[1]


def _read(path: Path, label: Path) -> pl.DataFrame:
    """A file of an archive as a table of text; `.csv` files have a header, the older ones do not and may be Latin-1."""
    if label.name not in _FIELDS:
        return text_tables.read(path, label)
    delimiter, names = _FIELDS[label.name]
    try:
        path.read_text(encoding="utf-8")
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = "latin-1"
    return text_tables.read_delimited(path, label, names, delimiter, quote="", skip=0, encoding=encoding)


def _known_files(path: Path, unpacked: Path) -> dict[str, Path]:
    """By name, the files of `_LAYOUTS` and `links.csv` in a folder or archive; an archive's are put into `unpacked`.

    Raises `CrsError` for a damaged archive and when no layout is complete.
    """
    wanted = [name for layout in _LAYOUTS for name in layout] + ["links.csv"]
    files: dict[str, Path] = {}
    if path.is_dir():
        for name in wanted:
            for file in (path / name, *sorted(path.glob(f"*/{name}"))):
                if file.is_file():
                    files.setdefault(name, file)
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                for member in sorted(archive.infolist(), key=lambda member: member.filename.count("/")):
                    name = member.filename.rpartition("/")[2]
                    if name not in wanted or name in files:
                        continue
                    if member.file_size > _LARGEST_MEMBER:
                        raise CrsError(
                            f"{name} in {path} is larger than MovieLens files are; unpack and check it yourself"
                        )
                    with archive.open(member) as packed, (unpacked / name).open("wb") as copy:
                        shutil.copyfileobj(packed, copy)
                    files[name] = unpacked / name
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            reason = one_line(str(error))[:120]
            raise CrsError(f"{path} is not a whole ZIP archive ({reason}); download it again") from None
        except OSError as error:
            raise CrsError(f"cannot unpack {path}: {error.strerror}; check the path and the free space") from None
    if not any(files.keys() >= set(layout) for layout in _LAYOUTS):
        layouts = ", or ".join(" and ".join(layout) for layout in _LAYOUTS)
        raise CrsError(f"{path} holds no MovieLens data; it needs {layouts}")
    return files
