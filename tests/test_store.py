"""Run folders: atomic files, clear sentences, locks."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from crslib import schemas
from crslib.errors import CrsError
from crslib.files import write_parquet, writing
from crslib.journal import journal
from crslib.store import Run


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


def test_paths_are_no_patterns(tmp_path: Path, items: pl.DataFrame) -> None:
    """A folder `set[12]` is itself, not `set1` beside it, and `*` and `?` in names are characters."""
    for name, rows in (("set1", items.head(1)), ("set[12]", items), ("a*b?", items.tail(2))):
        Run(tmp_path / name).write("items", rows)
    assert Run(tmp_path / "set[12]").read("items").equals(items)
    assert Run(tmp_path / "a*b?").read("items").equals(items.tail(2))


def test_a_run_is_in_use_while_a_process_holds_it_or_its_journal(tmp_path: Path) -> None:
    run = Run(tmp_path / "a")
    assert not run.in_use
    with run.lock():
        assert run.in_use
    with run.journal():
        assert run.in_use
    assert not run.in_use


@pytest.mark.parametrize("content", ["", "null", "[]", "{ torn", '{"stages": ["01_profiles"]}', "[" * 100_000])
def test_a_damaged_run_json_costs_no_dialogues(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CrsError, match=r"run\.json is not readable .*; delete this one file and run the same again"):
        _ = Run(tmp_path).info


_DAMAGED = [b"", b"\0\0\0\0", b'{"a": 1}', b"[1]", b'{"key": 1}', b'{"key": "a"', b'{"key": "\xff"}', b"[" * 100_000]


@pytest.mark.parametrize("line", _DAMAGED)
def test_a_damaged_line_is_left_out_and_named(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b'{"key": "a", "n": 1}\n' + line + b'\n{"key": "a", "n": 3}\n')
    with (
        pytest.warns(UserWarning, match=r"journal\.jsonl: line 2 is damaged and left out"),
        Run(tmp_path).journal() as own,
    ):
        assert [record["n"] for record in own.records] == [1, 3]
        own.keep_only("a")
    assert (tmp_path / "journal.jsonl").read_bytes() == b'{"key": "a", "n": 1}\n{"key": "a", "n": 3}\n'


def test_a_line_twice_counts_once_and_foreign_lines_are_dropped(tmp_path: Path) -> None:
    line = b'{"key": "a", "n": 1}\n'
    (tmp_path / "journal.jsonl").write_bytes(line + b'{"key": "b", "n": 2}\n' + line)
    with pytest.warns(UserWarning) as said, Run(tmp_path).journal() as own:
        own.keep_only("a")
        assert own.records == [{"key": "a", "n": 1}]
    assert (tmp_path / "journal.jsonl").read_bytes() == line
    assert "line 3 repeats an earlier one" in str(said[0].message)
    assert "dropped: line 2 (other parameters" in str(said[1].message)


@pytest.mark.parametrize("foreign", [*(line + b"\n" for line in _DAMAGED), None])
def test_a_broken_journal_beside_spoils_no_run(foreign: bytes | None, tmp_path: Path) -> None:
    """`None`: a folder where the file should be."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    bad = tmp_path / "a" / "journal.jsonl"
    bad.mkdir() if foreign is None else bad.write_bytes(foreign)
    (tmp_path / "b" / "journal.jsonl").write_bytes(b'{"key": "k", "n": 1}\n{"key": "k"')
    with pytest.warns(UserWarning) as said, Run(tmp_path / "c").journal(reuse=True) as own:
        own.keep_only("k")
        assert own.records == [{"key": "k", "n": 1}]
    assert str(bad) in str(said[0].message)
    assert len(said) == 1


def test_a_record_that_is_none_for_its_reader_is_a_damaged_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b'{"key": "a"}\n{"key": "b", "p": 1}\n')
    with (
        pytest.warns(UserWarning, match="x: line 1 is damaged"),
        journal(tmp_path / "x", valid=lambda record: "p" in record) as own,
    ):
        assert own.records == [{"key": "b", "p": 1}]


@pytest.mark.parametrize("renamed", [True, False])
def test_a_folder_renamed_or_removed_midway_is_said_and_nothing_is_put_in_its_place(
    renamed: bool, tmp_path: Path, items: pl.DataFrame
) -> None:
    Run(tmp_path / "r").update(status="started")
    run = Run(tmp_path / "r")
    with run.progress("dialogues") as progress, run.journal() as journal:
        journal.append({"key": "a"})
        (tmp_path / "r").rename(tmp_path / "moved") if renamed else shutil.rmtree(tmp_path / "r")
        progress(1, 2)
        sentence = r"{} was renamed or removed while it was written; put it back and run the same again"
        with pytest.raises(CrsError, match=sentence.format(run.path / "journal.jsonl")):
            journal.append({"key": "b"})
        for write in (lambda: run.update(status="success"), lambda: run.write("items", items)):
            with pytest.raises(CrsError, match=sentence.format(run.path)):
                write()
    assert [path.name for path in tmp_path.iterdir()] == (["moved"] if renamed else [])
    if renamed:
        (tmp_path / "moved").rename(tmp_path / "r")
        with run.journal() as journal:
            assert journal.records == [{"key": "a"}]
            journal.append({"key": "b"})
        run.update(status="success")
        assert run.info == {"status": "success"}


def test_a_locked_folder_that_goes_is_what_went_wrong(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match="was renamed or removed"), Run(tmp_path / "r").lock():
        (tmp_path / "r").rename(tmp_path / "moved")
        (tmp_path / "r").mkdir()
        raise KeyError("stages")
    with pytest.raises(KeyError, match="stages"), Run(tmp_path / "r").lock():
        raise KeyError("stages")


@pytest.mark.parametrize("cut", [0, 4, 100])
def test_a_table_that_makes_polars_panic_is_unreadable(
    cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panics(*_: object, **__: object) -> pl.DataFrame:
        raise pl.exceptions.PanicException("called `Option::unwrap()` on a `None` value" + "\n" * cut)

    monkeypatch.setattr(pl, "read_parquet", panics)
    with pytest.raises(CrsError, match=r"is not a readable Parquet file \(called `Option::unwrap.*\); run the step"):
        Run(tmp_path).read("items")


def test_an_error_without_words_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"cannot write .*x: ; free space"), writing(tmp_path / "x"):
        raise OSError
