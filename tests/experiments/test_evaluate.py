"""Dialogues from a file as a run: refused or planned, made once, and read by everything that reads runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from crslib.cli.main import main
from crslib.errors import CrsError
from crslib.experiments import evaluate, pipeline
from crslib.runs import find_runs
from crslib.store import Run

HEAT, MATRIX = "Heat (1995)", "The Matrix (1999)"


def dialogues(n: int) -> list[dict[str, Any]]:
    """Dialogues of DialogueKit with a label each, and titles in the texts alone."""
    texts = [
        ("USER", "Hi, any action movie? I loved The Matrix (1999)."),
        ("AGENT", "Have you seen Heat (1995)?"),
        ("USER", "Yes, I loved it. Thank you!"),
    ]
    return [
        {
            "conversation_id": f"c{number}",
            "conversation": [{"participant": who, "utterance": text} for who, text in texts + texts[1:] * (number % 3)],
            "user": {"id": f"user{number % 2}", "type": "USER"},
            "metadata": {"satisfaction": 1 + number % 5},
        }
        for number in range(n)
    ]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The file, the folder of reports and the output of `crs evaluate`."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "their system.json").write_text(json.dumps(dialogues(30)))
    result = CliRunner().invoke(main, arguments(folder))
    assert result.exit_code == 0, result.output
    return folder / "their system.json", folder / "reports", result.output


def arguments(folder: Path, *more: str) -> list[str]:
    file = str(folder / "their system.json")
    given = ["--as", "dialoguekit", "-p", "n_bootstrap=100", "--reports", str(folder / "reports")]
    return ["evaluate", file, *given, *more]


@pytest.mark.model
@pytest.mark.notebook
def test_dialogues_of_a_file_become_a_run(done: tuple[Path, Path, str]) -> None:
    _, reports, output = done
    (path,) = (reports / "runs").iterdir()
    assert output.splitlines()[-1] == str(path / "report.html")
    run = Run(path)
    assert run.info["status"] == "success"
    assert (run.run_id, run.info["parameters"]["condition"]) == (path.name, "their system")
    assert run.info["source"]["name"] == "their system.json"
    assert run.read("dialogues")["profile_id"].unique().sort().to_list() == ["user0", "user1"]
    items = {item["title"]: item["item_id"] for row in run.read("turns")["items"] for item in row}
    assert set(items) == {HEAT, MATRIX}
    assert None not in items.values()
    assert run.read("prompts").is_empty()
    audit = run.info["audit"]
    assert (audit["user_prompts"], audit["hidden_title"], audit["profile_text"]) == (0, None, None)


@pytest.mark.model
@pytest.mark.notebook
def test_metrics_that_need_a_profile_are_left_out_and_said_so(done: tuple[Path, Path, str]) -> None:
    _, reports, output = done
    run = Run(reports / "latest")
    measured = set(run.read("metrics")["metric"])
    assert {"turns", "recommender_validity", "acceptance", "user_words_ks", "item_entropy"} <= measured
    assert not {"hits", "leaked_titles", "k_anonymity", "contradictions", "reaction_consistency"} & measured
    report = (run.path / "report.html").read_text(encoding="utf-8")
    for text in (output, report):
        for need in ("profiles", "hidden items", "prompts (so there is no audit)", "private notes", "models"):
            assert f"because the dialogues have no {need}: " in text
    assert "Dialogues from the file their system.json (dialoguekit)." in report


@pytest.mark.model
@pytest.mark.notebook
def test_labels_are_scores_and_are_correlated(done: tuple[Path, Path, str]) -> None:
    """Labels 1 to 5 in turn, six times each: their mean is 3."""
    _, reports, output = done
    run = Run(reports / "latest")
    score = run.read("scores").filter(metric="human_satisfaction")
    assert score.sort("dialogue_id")["value"].to_list() == [
        1.0 + int(d[1:]) % 5 for d in sorted(f"c{n}" for n in range(30))
    ]
    assert run.read("metrics").filter(metric="human_satisfaction")["value"].item() == 3.0
    assert "turns" in run.read("correlations")["metric"].to_list()
    assert "satisfaction: 30 dialogues have a label" in output
    assert "| Turns per dialogue | " in output


@pytest.mark.model
@pytest.mark.notebook
def test_the_same_command_is_one_run_and_other_commands_read_it(
    done: tuple[Path, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, reports, _ = done
    page = reports / "look.html"
    looked = CliRunner().invoke(main, ["look", str(reports / "latest"), "--to", str(page)])
    assert looked.exit_code == 0, looked.output
    assert "their system" in page.read_text(encoding="utf-8")
    executed: list[str] = []
    monkeypatch.setattr(pipeline, "execute_notebook", lambda name, folder, parameters: executed.append(name))
    again = CliRunner().invoke(main, arguments(file.parent))
    assert "has been computed before" in again.output
    assert not executed
    renamed = evaluate.plan(file, "dialoguekit", {}, reports, condition="other")
    assert renamed.run_id != Run(reports / "latest").run_id
    (name,) = find_runs([reports / "latest"])
    assert name == "their system"


def test_comparison_with_other_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's run is the first condition; a run without metrics is refused."""
    executed: list[str] = []
    monkeypatch.setattr(pipeline, "execute_notebook", lambda name, folder, parameters: executed.append(name))
    one, other = (Run(tmp_path / name) for name in ("b", "a"))
    for run in (one, other):
        run.update(run_id=run.path.name, parameters={"condition": run.path.name})
        (run.path / "dialogues.parquet").touch()
    with pytest.raises(CrsError, match="b holds no metrics; give the folder of a run that succeeded"):
        evaluate.compare(one, [other], tmp_path)
    for run in (one, other):
        (run.path / "metrics.parquet").touch()
    folder = evaluate.compare(one, [other], tmp_path)
    content = json.loads((folder.path / "sweep.json").read_text())
    assert [row["values"]["condition"] for row in content["conditions"]] == ["b", "a"]
    assert executed == ["04_compare"]


def test_identity_depends_on_content_not_on_place(tmp_path: Path) -> None:
    one, other = tmp_path / "x.json", tmp_path / "y" / "x.json"
    other.parent.mkdir()
    for file in (one, other):
        file.write_text(json.dumps(dialogues(1)))

    def run_id(file: Path, **more: str) -> str:
        return evaluate.plan(file, "dialoguekit", {"n_bootstrap": 100}, tmp_path, **more).run_id

    first = run_id(one)
    assert run_id(other) == first
    assert run_id(one, titles="all") != first
    other.write_text(json.dumps(dialogues(2)))
    assert run_id(other) != first
    assert not (tmp_path / "runs").exists(), "planning writes nothing"


@pytest.mark.parametrize(
    ("given", "more", "sentence"),
    [
        ({"judged_by": "another"}, {}, "judged_by = 'another' needs profiles"),
        ({"n_boot": 3}, {}, "unknown parameter 'n_boot': did you mean 'n_bootstrap'?"),
        ({"condition": "x"}, {}, "unknown parameter 'condition'"),
        ({"human": "nowhere"}, {}, "no folder .*nowhere with human statistics"),
        ({"redial": "nowhere.zip"}, {}, r"nowhere\.zip does not exist"),
        ({}, {"data": "nowhere"}, r"nowhere/items\.parquet does not exist; run `crs data build`"),
    ],
)
def test_wrong_parameters_are_refused(
    tmp_path: Path, given: dict[str, Any], more: dict[str, str], sentence: str
) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(CrsError, match=sentence):
        evaluate.plan(tmp_path / "x.json", "trl", given, tmp_path, **more)


def test_a_file_of_another_form_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "their system.json").write_text(json.dumps([{"dialog": []}]))
    result = CliRunner().invoke(main, arguments(tmp_path))
    assert result.exit_code == 1
    assert "their system.json, dialogue 1 lacks 'conversation'" in result.output.replace("\n", " ")
    assert not (tmp_path / "reports").exists()
    missing = CliRunner().invoke(main, ["evaluate", str(tmp_path / "no.json"), "--as", "trl"])
    assert missing.exit_code == 1
    assert "No such file" in missing.output


def test_a_file_names_its_condition() -> None:
    assert evaluate.name_of(Path("a/MovieBot_13.json")) == "MovieBot_13"
    assert evaluate.name_of(Path("a/our set/dialogues.parquet")) == "our set"
    assert evaluate.name_of(Path("a/our set")) == "our set"


@pytest.mark.parametrize("texts", [[""], [" \n", "\u200b"]])
def test_a_file_in_which_nobody_says_a_word_is_refused(texts: list[str], tmp_path: Path) -> None:
    said = [{"participant": "USER", "utterance": text} for text in texts]
    (tmp_path / "their system.json").write_text(json.dumps([{"conversation": said}] * 2))
    result = CliRunner().invoke(main, arguments(tmp_path))
    assert result.exit_code == 1
    assert "nobody says a word in the 2 dialogues of" in result.stderr
    assert not list((tmp_path / "reports").rglob("*.parquet"))
