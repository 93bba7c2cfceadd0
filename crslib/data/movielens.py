"""MovieLens archives, zipped or unpacked, as a data folder."""

import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from crslib.data.imports import ITEM_COLUMNS, checked_items, checked_ratings, columns, first_line, read_csv, read_table
from crslib.data.tables import Imported, write
from crslib.errors import CrsError

_ARTICLE = r"The|A|An|La|Le|Les|L'|El|Los|Las|Il|Lo|I|Das|Der|Die|Un|Une|Una|Da|Det"
_PARENTHESIS = r"\((?:[^()]|\([^()]*\))*\)"


# ── words of MovieLens and IMDb ─────────────────────────────────────────────────────────────────────────────────────


def split_title(title: str) -> tuple[str, list[str]]:
    """A MovieLens title as its main title and the alternatives that follow in parentheses, all in natural order.

    `City of Lost Children, The (Cité des enfants perdus, La)` gives `The City of Lost Children` and
    `[La Cité des enfants perdus]`.
    """
    matched = re.fullmatch(rf"(.*?)((?: {_PARENTHESIS})*)", title.strip(), re.DOTALL)
    main, rest = matched.groups() if matched else (title, "")
    if not main or main.endswith(": Or"):  # "(500) Days of Summer", "Birdman: Or (The Unexpected Virtue …)"
        return _natural(title), []
    others = [re.sub(r"^a\.?k\.?a\.? ", "", each[1:-1].strip()) for each in re.findall(_PARENTHESIS, rest)]
    return _natural(main), [_natural(other) for other in others]


def _natural(title: str) -> str:
    inverted = re.fullmatch(rf"(.+), ({_ARTICLE})", title.strip())
    if not inverted:
        return title.strip()
    return inverted[2] + ("" if inverted[2].endswith("'") else " ") + inverted[1]


def import_movielens(path: Path, folder: Path) -> Imported:
    """Writes `items.parquet` and `ratings.parquet` into `folder` from a MovieLens archive, zipped or unpacked.

    Known are the layouts of ml-latest, ml-32m and their kin (`.csv`), ml-1m and ml-10m (`.dat`), and ml-100k
    (`u.data`). Raises `CrsError` when `path` is none of them.
    """
    with tempfile.TemporaryDirectory() as unpacked:
        found = _members(path, Path(unpacked))
        rated_in, described_in = next(layout for layout in _LAYOUTS if found.keys() >= set(layout))
        if rated_in == "ratings.csv":
            rated = read_table(found[rated_in], path / rated_in)
            described = read_table(found[described_in], path / described_in)
        else:
            rated = _read_fields(found[rated_in], path / rated_in, _FIELDS[rated_in])
            described = _read_fields(found[described_in], path / described_in, _FIELDS[described_in])
        if described_in == "u.item":
            flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _ML100K_GENRES]
            described = described.with_columns(pl.concat_str(flags, separator="|", ignore_nulls=True).alias("genres"))
        described = columns(described, path / described_in, ("item_id", "title"), ITEM_COLUMNS)
        if "links.csv" in found:
            label = path / "links.csv"
            links = columns(read_table(found["links.csv"], label), label, ("item_id", "imdb_id"), ())
            links = links.unique("item_id", keep="first", maintain_order=True)
            described = described.join(links, on="item_id", how="left", maintain_order="left")
        checked = checked_items(described, path / described_in)
        checked = checked.with_columns(pl.Series("title", [split_title(title)[0] for title in checked["title"]]))
        rated = columns(rated, path / rated_in, ("user_id", "item_id", "rating"), ("rated_at",))
        return write(checked, checked_ratings(rated, path / rated_in, checked), folder)


_LAYOUTS = (("ratings.csv", "movies.csv"), ("ratings.dat", "movies.dat"), ("u.data", "u.item"))
_ML100K_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_FIELDS = {
    "ratings.dat": ("::", ["user_id", "item_id", "rating", "rated_at"]),
    "movies.dat": ("::", ["item_id", "title", "genres"]),
    "u.data": ("\t", ["user_id", "item_id", "rating", "rated_at"]),
    "u.item": ("|", ["item_id", "title", "released", "video", "url", *_ML100K_GENRES]),
}
_LARGEST_MEMBER = 4 << 30  # bytes unpacked; the largest MovieLens file has 0.9 GB


def _read_fields(path: Path, label: Path, fields: tuple[str, Sequence[str]]) -> pl.DataFrame:
    """A file without header or quotes, in UTF-8 or, as the older archives, Latin-1."""
    delimiter, names = fields
    try:
        path.read_text(encoding="utf-8")
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = "latin-1"
    return read_csv(path, label, names, delimiter, quote="", skip=0, encoding=encoding)


def _members(path: Path, unpacked: Path) -> dict[str, Path]:
    """The known files of a MovieLens folder, or of an archive, copied to `unpacked` under their bare names."""
    wanted = [name for layout in _LAYOUTS for name in layout] + ["links.csv"]
    found: dict[str, Path] = {}
    if path.is_dir():
        for name in wanted:
            for file in (path / name, *sorted(path.glob(f"*/{name}"))):
                if file.is_file():
                    found.setdefault(name, file)
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                for member in sorted(archive.infolist(), key=lambda member: member.filename.count("/")):
                    name = member.filename.rpartition("/")[2]
                    if name not in wanted or name in found:
                        continue
                    if member.file_size > _LARGEST_MEMBER:
                        raise CrsError(
                            f"{name} in {path} is larger than MovieLens files are; unpack and check it yourself"
                        )
                    with archive.open(member) as packed, (unpacked / name).open("wb") as file:
                        shutil.copyfileobj(packed, file)
                    found[name] = unpacked / name
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise CrsError(f"{path} is not a whole ZIP archive ({first_line(error)}); download it again") from None
        except OSError as error:
            raise CrsError(f"cannot unpack {path}: {error.strerror}; check the path and the free space") from None
    if not any(found.keys() >= set(layout) for layout in _LAYOUTS):
        layouts = ", or ".join(" and ".join(layout) for layout in _LAYOUTS)
        raise CrsError(f"{path} holds no MovieLens data; it needs {layouts}")
    return found
