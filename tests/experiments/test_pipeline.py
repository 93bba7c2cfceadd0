"""Tiny runs with real notebooks and models: complete, repeated, in another folder, and interrupted."""

import json
import shutil
import signal
import tempfile
from pathlib import Path

import nbformat
import polars as pl
import pytest
from click.testing import CliRunner

from crslib import identity
from crslib.cli.main import main
from crslib.config import ROOT, RunParameters, n_threads
from crslib.errors import CrsError
from crslib.experiments import kernels, pipeline
from crslib.simulation import opening
from crslib.store import Run
from tests import recompute

TINY = {
    "n_profiles": 3,
    "max_turns": 4,
    "max_tokens": 16,
    "n_ctx": 512,
    "width": 4,
    "n_bootstrap": 100,
    "weights": "Q8_0",
    # Titles by the item prior alone: reading all titles takes minutes for each model, and other tests do it.
    "title_model": 0.0,
    "title_base": 0.0,
}
STAGES = RunParameters().stages


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A folder of reports and the run that `crs run` wrote there."""
    reports = tmp_path_factory.mktemp("reports")
    (reports / "tiny.yaml").write_text(json.dumps(TINY))
    result = CliRunner().invoke(main, ["run", "--params", str(reports / "tiny.yaml"), "--reports", str(reports)])
    assert result.exit_code == 0, result.output
    (run,) = (reports / "runs").iterdir()
    assert result.output.splitlines()[-1] == str(run / "report.html")
    return reports, Run(run)


@pytest.mark.model
@pytest.mark.notebook
def test_a_run_writes_everything_into_its_folder(done: tuple[Path, Run]) -> None:
    reports, run = done
    expected = {"run.json", "report.html", *(f"{name}.ipynb" for name in STAGES)}
    tables = ("profiles", "holdouts", "items", "ratings", "dialogues", "turns", "prompts", "scores", "metrics")
    assert expected | {f"{name}.parquet" for name in tables} <= {path.name for path in run.path.iterdir()}
    assert (reports / "latest").resolve() == run.path
    for name in tables:
        assert run.read(name).height > 0, name
    info = run.info
    assert info["status"] == "success"
    assert set(info["stages"]) == set(STAGES)
    assert info["audit"]["hidden_title"] == info["audit"]["profile_text"] == info["audit"]["private_note"] == 0
    assert info["parameters"]["n_profiles"] == 3
    assert info["parameters_given"] == TINY
    assert len(info["agents"]["user"]["model_sha256"]) == 64
    assert info["agents"]["user"]["adapter_sha256"] != info["agents"]["recommender"]["adapter_sha256"]
    assert "packages" in info
    assert "machine" in info


@pytest.mark.model
@pytest.mark.notebook
def test_its_figures_equal_an_independent_computation(done: tuple[Path, Run]) -> None:
    table, equal = recompute.recompute(done[1].path, ROOT / "data" / "human", draws=2)
    assert equal, table.filter(pl.col("by").str.starts_with("DIFFERS"))


@pytest.mark.model
@pytest.mark.notebook
def test_a_repeated_run_is_not_computed_again_and_is_byte_identical_elsewhere(
    done: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other threads, and without the table of hidden items while the models talk."""
    reports, run = done
    stages: list[str] = []
    pipeline.execute(pipeline.plan(TINY, reports), stages.append)
    assert stages == []
    execute = pipeline.execute_notebook

    def hiding(name: str, folder: Path, parameters: dict[str, object]) -> None:
        hidden, away = folder / "holdouts.parquet", tmp_path / "away"
        if name == "02_simulate":
            hidden.rename(away)
        execute(name, folder, parameters)
        if name == "02_simulate":
            assert not hidden.exists()
            away.rename(hidden)

    monkeypatch.setattr(pipeline, "execute_notebook", hiding)
    other = pipeline.execute(pipeline.plan({**TINY, "threads": n_threads(0) + 1}, tmp_path), stages.append)
    assert stages == list(STAGES)
    assert other.path.name == run.path.name  # threads are not part of the identity
    for name in ("turns", "dialogues", "prompts", "profiles", "holdouts", "scores", "metrics"):
        assert (other.path / f"{name}.parquet").read_bytes() == (run.path / f"{name}.parquet").read_bytes(), name


def test_identity_depends_on_content_not_on_names(tmp_path: Path) -> None:
    one = pipeline.plan(TINY, tmp_path)
    assert pipeline.plan({**TINY, "threads": 2}, tmp_path).run_id == one.run_id
    assert pipeline.plan({**TINY, "user_adapter": "data/adapters/../adapters/user.gguf"}, tmp_path).run_id == one.run_id
    changed = [{"seed": 1}, {"width": 8}, {"temperature": 0.9}, {"memory": False}, {"user_adapter": ""}]
    ids = {pipeline.plan({**TINY, **change}, tmp_path).run_id for change in changed}
    assert len(ids | {one.run_id}) == len(changed) + 1
    assert not list(tmp_path.iterdir()), "planning writes nothing"


def test_missing_inputs_are_errors_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "weights_form", lambda *given: pytest.fail("weights were measured first"))
    with pytest.raises(CrsError, match=r"items\.parquet does not exist; run `crs data build`"):
        pipeline.plan({"data": str(tmp_path)}, tmp_path)
    with pytest.raises(CrsError, match="cannot read the model"):
        pipeline.plan({"user_model": "none.gguf"}, tmp_path)
    with pytest.raises(CrsError, match="cannot read the adapter"):
        pipeline.plan({"recommender_adapter": "none.gguf"}, tmp_path)
    with pytest.raises(CrsError, match=r"no folder .* with human statistics"):
        pipeline.plan({"human": str(tmp_path / "none")}, tmp_path)
    with pytest.raises(CrsError, match=r"has no file train\*\.jsonl; give the folder of the unpacked ReDial zip"):
        pipeline.plan({"redial": str(tmp_path)}, tmp_path)


def test_a_missing_discriminator_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"cannot read the discriminator .*user\.json: No such file"):
        pipeline.plan({**TINY, "discriminators": str(tmp_path)}, tmp_path)


def test_folders_among_the_human_statistics_do_not_count(tmp_path: Path) -> None:
    (tmp_path / ".ipynb_checkpoints").mkdir()  # what JupyterLab leaves
    for name in ("README.md", ".DS_Store", "turns.parquet"):
        (tmp_path / name).touch()
    assert [path.name for path in sorted(tmp_path.iterdir()) if pipeline._has_figures(path)] == ["turns.parquet"]


@pytest.mark.notebook
def test_notebooks_run_below_any_folder_and_with_any_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Braces are no placeholders, and the path of a socket is short where TMPDIR is long (85 characters and more)."""
    source = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("print(x)")])
    source.cells[0].metadata["tags"] = ["parameters"]
    source.metadata["language_info"] = {"name": "python"}
    nbformat.write(source, tmp_path / "tiny.ipynb")
    monkeypatch.setattr(kernels, "notebook_path", lambda name: tmp_path / f"{name}.ipynb")
    (long := tmp_path / ("t" * 90)).mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (folder := tmp_path / "{x} {} [b]").mkdir()
    pipeline.execute_notebook("tiny", folder, {"x": 7})
    executed = nbformat.read(folder / "tiny.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "7\n"


def test_a_tmpdir_too_long_for_sockets_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/" + "t" * 90)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(
        CrsError, match="is too long for the sockets of a kernel; set TMPDIR to a writable folder of a sh"
    ):
        kernels._socket_folder()


def test_run_json_is_plain_json(tmp_path: Path) -> None:
    planned = pipeline.plan(TINY, tmp_path)
    record = json.loads(json.dumps(pipeline._record(planned)))
    assert record["status"] == "started"
    assert record["parameters"]["max_turns"] == 4


def test_a_full_disk_is_recorded_and_the_run_continues_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = pipeline.plan(TINY, tmp_path)
    executed: list[str] = []

    def fails(name: str, folder: Path, parameters: dict) -> None:
        if name == "02_simulate":
            raise CrsError("cannot write x: No space left on device")
        executed.append(name)

    monkeypatch.setattr(pipeline, "execute_notebook", fails)
    with pytest.raises(CrsError, match="No space left"):
        pipeline.execute(planned)
    assert planned.run.info["status"] == "error"
    monkeypatch.setattr(pipeline, "execute_notebook", lambda name, folder, parameters: executed.append(name))
    assert pipeline.execute(planned).info["status"] == "success"
    assert executed == ["01_profiles", "02_simulate", "03_evaluate"]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.usefixtures("usual_signals")
def test_a_signal_cancels_a_run_and_the_same_call_goes_on(
    ending: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = pipeline.plan(TINY, tmp_path)
    executed: list[str] = []

    def interrupted(name: str, folder: Path, parameters: dict) -> None:
        if name == "02_simulate":
            signal.raise_signal(ending)
        executed.append(name)

    monkeypatch.setattr(pipeline, "execute_notebook", interrupted)
    with pytest.raises(KeyboardInterrupt if ending == signal.SIGINT else SystemExit):
        pipeline.execute(planned)
    assert planned.run.info["status"] == "cancelled"
    assert planned.run.info["finished"]
    monkeypatch.setattr(pipeline, "execute_notebook", lambda name, folder, parameters: executed.append(name))
    assert pipeline.execute(planned).info["status"] == "success"
    assert executed == ["01_profiles", "02_simulate", "03_evaluate"]


def test_what_a_killed_writer_left_in_the_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "execute_notebook", lambda name, folder, parameters: None)
    planned = pipeline.plan(TINY, tmp_path)
    planned.run.path.mkdir(parents=True)
    ours = (".turns.parquet.k3j2_x9a", ".run.json.abcdefgh", ".report.html.00000000")
    for name in (*ours, ".notes.txt.abcdefgh", ".mine"):
        (planned.run.path / name).write_text("half")
    pipeline.execute(planned)
    left = {path.name for path in planned.run.path.iterdir() if path.name.startswith(".")}
    assert left == {".notes.txt.abcdefgh", ".mine"}


@pytest.mark.parametrize("content", [None, "{}", '{"run_id": "another", "stages": {}, "files": {}}'])
def test_a_run_json_that_goes_or_changes_midway_is_said_and_the_same_call_goes_on(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = pipeline.plan(TINY, tmp_path)
    executed: list[str] = []

    def lose(name: str, folder: Path, parameters: dict) -> None:
        executed.append(name)
        if executed == ["01_profiles", "02_simulate"]:
            (folder / "run.json").unlink()
            if content is not None:
                (folder / "run.json").write_text(content)

    monkeypatch.setattr(pipeline, "execute_notebook", lose)
    with pytest.raises(CrsError, match=r"run\.json was changed or removed during 02_simulate; run the same again"):
        pipeline.execute(planned)
    assert planned.run.info["status"] == "error"
    assert pipeline.execute(planned).info["status"] == "success"
    assert planned.run.info["run_id"] == planned.run_id
    assert executed == ["01_profiles", "02_simulate", "01_profiles", "02_simulate", "03_evaluate"]


def test_identity_depends_on_the_library_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks only call the library, so results of old code must not be reused for new code."""
    before = pipeline.plan(TINY, tmp_path).run_id
    package = tmp_path / "crslib"
    shutil.copytree(identity.LIBRARY, package)
    monkeypatch.setattr(identity, "LIBRARY", package)
    assert pipeline.plan(TINY, tmp_path).run_id == before
    with (package / "stats.py").open("a") as file:
        file.write("# changed\n")
    assert pipeline.plan(TINY, tmp_path).run_id != before


@pytest.mark.parametrize("name", ["page.css", "search.js", "report.html"])
def test_identity_depends_on_what_a_report_is_drawn_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "crslib"
    shutil.copytree(identity.LIBRARY, package)
    monkeypatch.setattr(identity, "LIBRARY", package)
    before = pipeline.library_inputs()
    (package / "web/page/page.css").write_text("/* no part of a run */")
    assert pipeline.library_inputs() == before
    (package / "reporting/templates" / name).write_text("changed")
    after = pipeline.library_inputs()
    assert (after["library"] == before["library"], after["templates"] == before["templates"]) == (True, False)


def test_all_kinds_of_templates_count() -> None:
    kinds = {file.suffix for file in (identity.LIBRARY / "reporting/templates").iterdir()}
    assert kinds == set(pipeline._DRAWN_WITH)


_MADE = {
    "01_profiles": ("profiles.parquet", "holdouts.parquet"),
    "02_simulate": ("dialogues.parquet", "turns.parquet"),
    "03_evaluate": ("metrics.parquet", "report.html"),
}


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[pipeline.Plan, list[str]]:
    """A finished run whose notebooks only write files, and the list of those that are executed from now on."""
    executed: list[str] = []

    def write(name: str, folder: Path, parameters: dict[str, object]) -> None:
        executed.append(name)
        for file in _MADE[name]:
            (folder / file).write_text(f"content of {file}")

    monkeypatch.setattr(pipeline, "execute_notebook", write)
    planned = pipeline.plan(TINY, tmp_path)
    pipeline.execute(planned)
    assert executed == list(_MADE)
    executed.clear()
    return planned, executed


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "folder"])
@pytest.mark.parametrize("file", [file for files in _MADE.values() for file in files])
def test_the_stage_whose_file_is_gone_or_damaged_is_repeated_with_all_after_it(
    file: str, damage: str, quick: tuple[pipeline.Plan, list[str]]
) -> None:
    planned, executed = quick
    assert pipeline.is_complete(planned.run)
    path = planned.run.path / file
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
        (path / "in the way").touch()
    elif damage != "gone":
        path.write_bytes(whole[:5] if damage == "cut" else b"C" + whole[1:])
    assert not pipeline.is_complete(planned.run)
    if damage == "folder":
        shutil.rmtree(path)
    pipeline.execute(planned)
    stage = next(name for name, files in _MADE.items() if file in files)
    assert executed == list(_MADE)[list(_MADE).index(stage) :]
    assert path.read_bytes() == whole
    assert pipeline.is_complete(planned.run)
    executed.clear()
    pipeline.execute(planned)
    assert executed == []


def test_an_interrupted_run_repeats_a_stage_whose_table_is_gone(quick: tuple[pipeline.Plan, list[str]]) -> None:
    planned, executed = quick
    stages = planned.run.info["stages"]
    planned.run.update(status="error", stages={name: stages[name] for name in ("01_profiles", "02_simulate")})
    (planned.run.path / "holdouts.parquet").unlink()
    pipeline.execute(planned)
    assert executed == list(_MADE)


def test_a_damaged_run_json_is_said_and_without_it_the_run_goes_on(quick: tuple[pipeline.Plan, list[str]]) -> None:
    planned, executed = quick
    file = planned.run.path / "run.json"
    file.write_text("{ torn")
    assert not pipeline.is_complete(planned.run)
    with pytest.raises(CrsError, match="delete this one file and run the same again"):
        pipeline.execute(planned)
    assert (planned.run.path / "turns.parquet").exists()
    file.unlink()
    pipeline.execute(planned)
    assert executed == list(_MADE)
    assert pipeline.is_complete(planned.run)


@pytest.mark.parametrize("renamed", [True, False])
def test_a_run_folder_renamed_or_removed_midway_is_one_sentence(
    renamed: bool, quick: tuple[pipeline.Plan, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planned, executed = quick
    folder, away = planned.run.path, tmp_path / "away"
    (folder / "turns.parquet").unlink()
    write = pipeline.execute_notebook

    def moves(name: str, path: Path, parameters: dict[str, object]) -> None:
        write(name, path, parameters)
        folder.rename(away) if renamed else shutil.rmtree(folder)

    monkeypatch.setattr(pipeline, "execute_notebook", moves)
    with pytest.raises(CrsError, match=f"{folder} was renamed or removed while it was written; put it back and run"):
        pipeline.execute(planned)
    assert not folder.exists()
    if renamed:
        away.rename(folder)
        monkeypatch.setattr(pipeline, "execute_notebook", write)
        executed.clear()
        pipeline.execute(planned)
        assert executed == ["02_simulate", "03_evaluate"]
