"""`crs lab`: copies of the notebooks, of which those that somebody changed are kept."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from crslib.cli.lab import copied
from crslib.cli.main import main


def write(path: Path, source: str, **more: object) -> None:
    """A notebook of one cell."""
    cell = {"cell_type": "code", "source": [source], **more}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"cells": [cell]}))


def source_of(path: Path) -> str:
    return json.loads(path.read_text())["cells"][0]["source"][0]


def test_changed_copies_are_kept_and_others_are_made_anew(tmp_path: Path) -> None:
    source, lab = tmp_path / "notebooks", tmp_path / "lab"
    for name in ("changed", "same", "run"):
        write(source / f"{name}.ipynb", "1")
    assert copied(lab, source) == []
    write(lab / "changed.ipynb", "mine")
    write(lab / "run.ipynb", "1", outputs=["3.14"], execution_count=1)
    assert copied(lab, source) == []  # nothing is newer
    assert (source_of(lab / "changed.ipynb"), "3.14" in (lab / "run.ipynb").read_text()) == ("mine", True)
    for name in ("changed", "same", "run"):
        write(source / f"{name}.ipynb", "2")
    assert copied(lab, source) == ["changed.ipynb"]
    assert [source_of(lab / f"{name}.ipynb") for name in ("changed", "same", "run")] == ["mine", "2", "2"]
    (lab / "changed.ipynb").rename(lab / "mine.ipynb")
    (lab / "same.ipynb").write_text("no notebook")  # somebody's all the same
    assert copied(lab, source) == []
    assert (source_of(lab / "changed.ipynb"), source_of(lab / "mine.ipynb")) == ("2", "mine")
    assert (lab / "same.ipynb").read_text() == "no notebook"


@pytest.mark.parametrize("record", ["{ torn", "[]", '{"a.ipynb": 1}'])
def test_a_damaged_record_keeps_all_changed_copies(record: str, tmp_path: Path) -> None:
    source, lab = tmp_path / "notebooks", tmp_path / "lab"
    for name in ("changed", "same"):
        write(source / f"{name}.ipynb", "1")
    copied(lab, source)
    write(lab / "changed.ipynb", "mine")
    (lab / ".copied.json").write_text(record)
    assert copied(lab, source) == ["changed.ipynb"]
    assert [source_of(lab / f"{name}.ipynb") for name in ("changed", "same")] == ["mine", "1"]
    assert list(json.loads((lab / ".copied.json").read_text())) == ["same.ipynb"]


def test_the_command_copies_our_notebooks_and_says_where(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["lab", "--no-open", "--reports", str(tmp_path)])
    assert (done.exit_code, done.output.strip()) == (0, str(tmp_path / "lab"))
    assert (tmp_path / "lab" / "03_evaluate.ipynb").exists()
