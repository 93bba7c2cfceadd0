"""A MovieLens archive, zipped or unpacked, as a data folder."""

import re
import shutil
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import polars as pl

from crslib.data import columns, readers
from crslib.data.imports import DEFAULT, Imported, Options, store_tables
from crslib.data.source import NOT_STATED, Source
from crslib.data.titles import split_year
from crslib.dialogue.utterances import one_line
from crslib.errors import CrsError

SOURCE = Source(
    name="MovieLens",
    url="https://grouplens.org/datasets/movielens/",
    licence="MovieLens: research, non-commercial (data/LICENSE-movielens.txt)",
    citation="F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM "
    "Transactions on Interactive Intelligent Systems 5, 4, Article 19. https://doi.org/10.1145/2827872",
)
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


def import_movielens(path: Path, folder: Path, options: Options = DEFAULT) -> Imported:
    """Writes `items.parquet`, `ratings.parquet` and `source.json` into `folder` from a MovieLens archive, zipped or
    unpacked. `options`: as of `imports.import_ratings`; columns and tags are MovieLens' own, and so is what is not
    stated of the source (`SOURCE`).

    Layouts: ml-latest, ml-32m and similar ones (`.csv`), ml-1m and ml-10m (`.dat`), ml-100k (`u.data`). Raises
    `CrsError` when `path` has none of them.
    """
    known = {name: text for name, text in options.source if text != NOT_STATED}
    options = replace(options, source=SOURCE.model_copy(update=known))
    with readers.workspace() as work:
        files = _known_files(path, work.folder)
        ratings_name, items_name = next(layout for layout in _LAYOUTS if files.keys() >= set(layout))
        rated, described = (_open(work, files[name], path / name) for name in (ratings_name, items_name))
        flags = _ML100K_GENRES if items_name == "u.item" else ()
        chosen = columns.select(described.columns, described.label, columns.OF_ITEMS, {}, ("item_id", "title"))
        described.load(work.con, {**chosen.chosen, **{genre: genre for genre in flags}}, "described")
        items = readers.text_of(work.con, "described")
        if flags:
            marked = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in flags]
            kinds = pl.concat_str(marked, separator="|", ignore_nulls=True).alias("kinds")
            items = items.with_columns(kinds).drop(flags)
        if "links.csv" in files:
            links = readers.open_file(work, files["links.csv"], path / "links.csv")
            ids = columns.select(links.columns, links.label, ("item_id", "external_id"), {}, ("item_id", "external_id"))
            links.load(work.con, ids.chosen, "links")
            linked = readers.text_of(work.con, "links").unique("item_id", keep="first")
            items = items.join(linked, on="item_id", how="left", maintain_order="left")
        titles = [None if title is None else _titled(title) for title in items["title"]]
        items = items.with_columns(pl.Series("title", titles, dtype=pl.String))
        return store_tables(work, rated, items, described, {}, folder, options, [])


def _titled(title: str) -> str:
    """A MovieLens title as `split_title` has it, with its year behind it."""
    bare, year = split_year(one_line(title))
    main = split_title(bare)[0]
    return main if year is None else f"{main} ({year})"


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


def _open(work: readers.Workspace, path: Path, label: Path) -> readers.Opened:
    """A file of an archive; `.csv` files have a header, the older ones do not and may be Latin-1."""
    if label.name not in _FIELDS:
        return readers.open_file(work, path, label)
    delimiter, names = _FIELDS[label.name]
    return readers.delimited(readers.in_utf8(work, path)[0], label, names, delimiter, quote="", skip=0)


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
                    if member.flag_bits & 1:
                        raise CrsError(f"{path} is encrypted; unpack it with its password and give the folder")
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
