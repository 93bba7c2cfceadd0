"""Which files are read as numbers, and that they come out as they do when they are read as text."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from crslib.data import feedback, imports, numbers, readers
from crslib.errors import CrsError
from tests.support.fuzz import SLOW

COLUMNS = {"user_id": "u", "item_id": "i", "rating": "r"}


def read(folder: Path, text: str, columns: dict[str, str] = COLUMNS) -> pl.DataFrame | None:
    path = folder / "r.csv"
    path.write_bytes(text.encode())
    with readers.workspace() as work:
        return numbers.read(readers.open_file(work, path, path), columns)


def test_numbers_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    frame = read(tmp_path, "x,i,r,u\nno number,7,4.5,12\n,0,.5,1\n,,3,2")
    assert frame is not None
    assert frame.select("row", *COLUMNS).rows() == [(0, 12, 7, 4.5), (1, 1, 0, 0.5), (2, 2, None, 3.0)]


@pytest.mark.parametrize(
    "row",
    [
        *("007,1,3", "1,00,3", "+7,1,3", "-7,1,3", " 7,1,3", "7 ,1,3", "7.0,1,3", "1e2,1,3", "a,1,3", '"7",1,3'),
        *("7,1,three", "7,1", "7,1,3,4", "99999999999999999999,1,3", "7,1,03", "7;1;3", "7,1,3\n\n7,2,3"),
    ],
)
def test_what_is_written_otherwise_is_left_to_be_read_as_text(tmp_path: Path, row: str) -> None:
    for place in (0, 1, 3000):  # the last one lies behind the first bytes that are looked at
        rows = [f"{1000000 + n},{n},4.5" + "0" * 80 for n in range(4000)]
        rows.insert(place, row)
        assert read(tmp_path, "\n".join(["u,i,r", *rows])) is None
    assert read(tmp_path, "\n".join(["u,i,r", *rows[:3000]])) is not None


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_lines_end_and_are_divided_as_files_do(tmp_path: Path, end: str, delimiter: str) -> None:
    frame = read(tmp_path, end.join(delimiter.join(cells) for cells in (("u", "i", "r"), "123", "456")) + end)
    assert frame is not None
    assert frame.select(*COLUMNS).rows() == [(1, 2, 3.0), (4, 5, 6.0)]


ids = st.sampled_from(["0", "1", "2", "10", "07", "7", "+7", "x"])
rows = st.lists(
    st.tuples(ids, ids, st.sampled_from(["1", "4.5", "5"]), st.sampled_from(["", "0", "978300760", "978300760000"])),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row[:2],
)


@SLOW
@given(rows)
def test_a_file_gives_the_same_tables_whichever_way_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]
) -> None:
    """In memory and sorted there, or as DuckDB does it; as numbers, or as text."""
    folder = tmp_path_factory.mktemp("r")
    (folder / "r.csv").write_text("user_id,item_id,rating,timestamp\n" + "".join(",".join(row) + "\n" for row in rows))
    items = ["0", "1", "2", "10", "07", "7", "+7", "x"]
    (folder / "i.csv").write_text("item_id,title,year\n" + "".join(f"{n},Film {n},1999\n" for n in items))

    def imported(name: str) -> tuple[object, ...]:
        try:
            said = imports.import_ratings(folder / "r.csv", folder / "i.csv", folder / name)
        except CrsError as error:
            assert "rated_at" in str(error)  # no row has a time that can be read; nothing else is wrong with any file
            return (str(error),)
        return said, *((folder / name / f"{table}.parquet").read_bytes() for table in ("items", "ratings"))

    with pytest.MonkeyPatch.context() as patch:
        first = imported("as it is")
        with patch.context() as small:
            small.setattr(feedback, "PART", 2)  # and so the row groups, whose bytes are others
            assert imported("in parts")[0] == first[0]
        for table in ("items", "ratings") if len(first) > 1 else ():
            whole, parts = (pl.read_parquet(folder / name / f"{table}.parquet") for name in ("as it is", "in parts"))
            assert_frame_equal(whole, parts)
        patch.setattr(feedback, "IN_MEMORY", 0)
        patch.setattr(feedback, "NUMBERS_IN_MEMORY", 0)
        assert imported("streamed") == first
        patch.setattr(numbers, "read", lambda opened, columns: None)
        assert imported("cell by cell") == first


def test_ids_beyond_32_bits_stay_whole(tmp_path: Path) -> None:
    frame = read(tmp_path, f"u,i,r\n{2**31},{2**31 - 1},3\n{2**62},5,3")
    assert frame is not None
    assert frame.select("user_id", "item_id").rows() == [(2**31, 2**31 - 1), (2**62, 5)]
    assert (frame.schema["user_id"], frame.schema["item_id"]) == (pl.Int64, pl.Int32)
