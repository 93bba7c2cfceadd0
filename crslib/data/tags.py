"""Tags that people gave to items, in files of their own: which ones an item has most often."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from crslib.data import readers
from crslib.data.columns import NAMES
from crslib.dialogue import utterances
from crslib.errors import CrsError

MAX_TAGS = 5  # of an item, the most frequent
MIN_CATALOGUE = 20  # items from which on a tag of more than half of them says nothing ("to-read") and is left out
_ID, _NAME, _COUNT = ("tagid",), ("tag", "tagname", "tagvalue"), ("count",)


def with_tags(
    work: readers.Workspace, items: readers.Opened, chosen: Mapping[str, str], paths: Sequence[Path]
) -> tuple[dict[str, str], Callable[..., dict[str, list[str]]]]:
    """The column of the items' file by which its tags are joined (name → column), and a function of the table of items
    that gives each item's tags by item id.

    One file has a row for each time that an item got a tag, or with a count: the item's id, or another id that `items`
    has a column of, and the tag or its id; with ids a second file has their names (Goodbooks' `book_tags.csv` and
    `tags.csv`, Last.fm's `user_taggedartists.dat` and `tags.dat`, MovieLens' `tags.csv`). Raises `CrsError` when the
    files do not fit together.
    """
    if not paths:
        return {}, lambda frame: {}
    opened = [readers.open_file(work, path, path) for path in paths]
    given = [{_plain(column): column for column in file.columns} for file in opened]
    keys = {_plain(column): column for column in items.columns}
    item_names = [name for group in NAMES["item_id"] for name in group if name != "id"]
    for file, names in zip(opened, given, strict=True):
        own = next((name for name in names if name in item_names and _plain(chosen["item_id"]) in (name, "id")), None)
        key = own or next((name for name in names if name in keys and name not in ("id", *_ID, *_NAME, *_COUNT)), None)
        tag = next((name for name in (*_NAME, *_ID) if name in names), None)
        if key and tag:
            tagged, joined, by_id = file, names, tag in _ID
            break
    else:
        listed = ", ".join(map(str, paths))
        raise CrsError(f"no file of {listed} has a column of items' ids and one of tags; give such a file with --tags")
    n = next((joined[name] for name in _COUNT if name in joined), None)
    tagged.load(work.con, {"item": joined[key], "tag": joined[tag], **({"n": n} if n else {})}, "tagged")
    words = "SELECT NULL AS id, NULL AS tag WHERE false"
    if by_id:
        words = _names(work, [(f, g) for f, g in zip(opened, given, strict=True) if f is not tagged])
    number = "greatest(coalesce(TRY_CAST(n AS DOUBLE), 1), 0)" if n else "1"
    column = chosen["item_id"] if own else keys[key]

    def tags(frame) -> dict[str, list[str]]:  # type: ignore[no-untyped-def]
        name = next((name for name in frame.columns if name == "#tags"), "item_id")
        work.con.register("their_items", frame.select(item="item_id", key=name).to_arrow())
        rows = work.con.sql(
            f"""
            WITH named AS (
                SELECT i.item, {"w.tag" if by_id else "t.tag"} AS tag, sum({number}) AS n FROM tagged t
                JOIN their_items i ON t.item = i.key {f"JOIN ({words}) w ON t.tag = w.id" if by_id else ""}
                GROUP BY ALL
            ), spread AS (SELECT tag, count(DISTINCT item) AS n_items FROM named GROUP BY tag)
            SELECT item, list(tag ORDER BY n DESC, tag)[:{MAX_TAGS}] FROM named JOIN spread USING (tag)
            WHERE tag IS NOT NULL AND ({frame.height} < {MIN_CATALOGUE} OR 2 * n_items <= {frame.height})
            GROUP BY item
            """
        ).fetchall()
        return {item: [utterances.one_line(tag).lower() for tag in listed] for item, listed in rows}

    return ({} if own else {"#tags": column}), tags


def _names(work: readers.Workspace, others: Sequence[tuple[readers.Opened, Mapping[str, str]]]) -> str:
    """A query of `id`, `tag` from the file of tags' names."""
    for file, names in others:
        key = next((names[name] for name in (*_ID, "id") if name in names), None)
        tag = next((names[name] for name in (*_NAME, "name", "value") if name in names), None)
        if key and tag:
            file.load(work.con, {"id": key, "tag": tag}, "tag_names")
            return "SELECT id, tag FROM tag_names"
    raise CrsError("the tags are given by ids only; give the file with their names too, by a second --tags")


def _plain(column: str) -> str:
    return "".join(char for char in column.lower() if char.isalnum())
