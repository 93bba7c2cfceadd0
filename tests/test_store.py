"""Run folders: atomic files, clear sentences, and a registry that is only a view."""

import json
from pathlib import Path

import polars as pl
import pytest

from crslib import schemas
from crslib.errors import CrsError
from crslib.store import Run, registry, write_parquet, writing


def test_tables_come_back_as_they_went(tmp_path: Path, items: pl.DataFrame) -> None:
    run = Run(tmp_path / "r")
    run.write("items", items)
    assert run.read("items").equals(items)
    assert run.has("items")
    run.write("items", items)
    first = (run.path / "items.parquet").read_bytes()
    Run(tmp_path / "s").write("items", items)
    assert (tmp_path / "s" / "items.parquet").read_bytes() == first


def test_wrong_tables_name_the_column(items: pl.DataFrame) -> None:
    with pytest.raises(CrsError, match="table items lacks column 'title'"):
        schemas.check(items.drop("title"), "items")
    with pytest.raises(CrsError, match="unknown column 'extra'"):
        schemas.check(items.with_columns(extra=1), "items")
    with pytest.raises(CrsError, match="column 'year' of table items is String; it must be Int32"):
        schemas.check(items.with_columns(pl.col("year").cast(pl.String)), "items")


def test_unreadable_tables(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"items\.parquet does not exist"):
        Run(tmp_path).read("items")
    (tmp_path / "items.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(CrsError, match="is not a readable Parquet file"):
        Run(tmp_path).read("items")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), writing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("full", ["/dev/full"])
def test_a_full_disk_is_told(full: str, tmp_path: Path) -> None:
    if not Path(full).exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(CrsError, match="No space left on device; free space"), writing(tmp_path / "x") as _:
        Path(full).write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, items: pl.DataFrame) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CrsError, match=r"cannot write .*; free space or choose a writable folder"):
        write_parquet(items, tmp_path / "file" / "items.parquet")


def test_run_json_is_kept_whole(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.update(status="started", parameters={"condition": "a"})
    run.update(status="success")
    assert run.info == {"status": "success", "parameters": {"condition": "a"}}
    (tmp_path / "run.json").write_text("{ torn")
    with pytest.raises(CrsError, match=r"run\.json is not readable"):
        _ = run.info


def test_journal_survives_a_torn_line_and_is_appended_to(tmp_path: Path) -> None:
    with Run(tmp_path).journal() as journal:
        journal.append({"key": "a", "n": 1})
        journal.append({"key": "b", "n": 2})
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"key": "a", "n"')
    with Run(tmp_path).journal() as journal:
        assert [record["n"] for record in journal.records] == [1, 2]
        journal.append({"key": "a", "n": 3})
        journal.keep_only("a")
        assert [record["n"] for record in journal.records] == [1, 3]
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == [1, 3]


def test_progress_is_seen_from_outside(tmp_path: Path) -> None:
    assert Run(tmp_path).reached == (0, 0, "")
    with Run(tmp_path).progress("dialogues") as progress:
        progress(3, 8)
    assert Run(tmp_path).reached == (3, 8, "dialogues")


def test_registry_lists_runs_by_time(tmp_path: Path) -> None:
    assert registry(tmp_path).is_empty()
    for name, started in (("b", "2026-01-02"), ("a", "2026-01-03")):
        parameters = {"condition": f"c-{name}"}
        Run(tmp_path / "runs" / name).update(run_id=name, status="success", started=started, parameters=parameters)
    found = registry(tmp_path)
    assert found["run_id"].to_list() == ["b", "a"]
    assert found["condition"].to_list() == ["c-b", "c-a"]
    assert Path(found["path"][0]) == tmp_path / "runs" / "b"
