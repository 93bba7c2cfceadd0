"""The rows of the viewer against counts by hand. `test_browser` shows them."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from crslib import schemas
from crslib.cli.main import main
from crslib.errors import CrsError
from crslib.simulation.replay import CANDIDATES, TOKENS, Replay
from crslib.store import Run
from crslib.web import viewer
from tests.support.people_runs import SCRIPT, make_runs

HEAT, UP = "Heat (1995)", "Up (2009)"


def viewed_runs(folder: Path, items: pl.DataFrame) -> list[Run]:
    """Runs `a` and `b` of u000, u001 and u002, whose dialogues hold markup; two turns each. u000 likes Heat later on,
    u001 Up. The recommender of `a` names Heat to everybody, that of `b` nothing."""
    runs = [Run(path) for path in make_runs(folder, 3, n_turns=2)]
    for run in runs:
        condition = run.path.name
        heat = {"item_id": "1", "title": HEAT, "start": 5, "end": 20}
        note = {"item_id": "1", "title": HEAT, "seen": False, "liked": True}
        turns = []
        for person in ("u000", "u001", "u002"):
            named, text = ([heat], f"Seen [[{HEAT}]]?") if condition == "a" else ([], "Seen it?")
            reply = SCRIPT if person == "u002" else "not yet"
            turns.append((f"{person}.0", 0, "recommender", text, named, [], 1, 0.0, "end"))
            turns.append((f"{person}.0", 1, "user", reply, [], [note] if named else [], 1, 0.0, "end"))
        hits = [("u000.0", "hits", float(condition == "a")), ("u001.0", "hits", 0.0), ("u000.0", "own", 0.25)]
        ends = pl.when(profile_id="u001").then(pl.lit("max_turns")).otherwise(pl.lit("user_left"))
        run.write("dialogues", run.read("dialogues").with_columns(opener=pl.lit("recommender"), stop_reason=ends))
        rows = {
            "turns": turns,
            "holdouts": [("u000", "1", 5.0, True), ("u001", "6", 5.0, True), ("u001", "2", 1.0, False)],
            "scores": [(run.run_id, *hit) for hit in hits],
        }
        for name, table in rows.items():
            run.write(name, pl.DataFrame(table, schema=dict(schemas.TABLES[name]), orient="row"))
        run.write("items", items)
    return runs


def replayed() -> Replay:
    """Dialogue u000.0 of run `a`, replayed."""
    pieces = [("Seen", -0.1), (" [[", -0.2), ("He", -0.3), ("at (1995)", -7.0), ("]]?", -0.5)]
    tokens = [("u000.0", 0, position, piece, logprob) for position, (piece, logprob) in enumerate(pieces)]
    candidates = [
        ("u000.0", 0, 0, "1", HEAT, -1.8, -3.0, 0.75, True),
        ("u000.0", 0, 0, "6", UP, -1.5, -4.5, 0.0005, False),
    ]
    return Replay(
        pl.DataFrame(tokens, schema=TOKENS, orient="row"), pl.DataFrame(candidates, schema=CANDIDATES, orient="row")
    )


def test_rows_hold_turns_profiles_targets_and_scores(tmp_path: Path, items: pl.DataFrame) -> None:
    data = viewer.rows(viewed_runs(tmp_path, items), [replayed()])
    assert data["runs"] == [{"id": "run-a", "name": "a"}, {"id": "run-b", "name": "b"}]
    assert data["metrics"] == [{"name": "hits", "title": "Dialogues with a hit"}, {"name": "own", "title": "own"}]
    assert [(d["run"], d["id"]) for d in data["dialogues"]] == [(r, f"u00{p}.0") for r in (0, 1) for p in (0, 1, 2)]
    first, second, *_ = data["dialogues"]
    assert first["scores"] == {"hits": 1.0, "own": 0.25}
    assert first["targets"] == [[HEAT, True]]
    assert second["targets"] == [[UP, False]]
    assert (first["stop"], first["ending"], second["stop"]) == ("user_left", "the user left", "max_turns")
    assert first["turns"][1]["notes"] == f"({HEAT}: not seen, interested)"
    assert first["summary"] == "You enjoy western movies, secret0secret."
    assert [d["read"] for d in data["dialogues"]] == [True] + [False] * 5


def test_pieces_are_cut_at_tokens_without_brackets(tmp_path: Path, items: pl.DataFrame) -> None:
    first, second, *_ = viewer.rows(viewed_runs(tmp_path, items), [replayed()])["dialogues"]
    target = "item target"
    shaded = [("Seen", "", -0.1), (" ", "", -0.2), ("He", target, -0.3), ("at (1995)", target, -7.0), ("?", "", -0.5)]
    assert first["turns"][0]["pieces"] == shaded
    assert second["turns"][0]["pieces"] == [("Seen ", "", None), (HEAT, "item", None), ("?", "", None)]
    rows = [(HEAT, -1.8, -3.0, 0.75, True), (UP, -1.5, -4.5, 0.0005, False)]
    assert first["turns"][0]["candidates"] == [{"title": HEAT, "rows": rows}]
    assert second["turns"][0]["candidates"] == []


def test_runs_of_one_id_are_told_apart_by_their_names(tmp_path: Path, items: pl.DataFrame) -> None:
    runs = viewed_runs(tmp_path, items)
    for run in runs:
        run.update(run_id="run-a")
    assert [run["id"] for run in viewer.rows(runs)["runs"]] == ["a", "b"]


def test_one_dialogue_is_read_alone(tmp_path: Path, items: pl.DataFrame) -> None:
    run, _ = viewed_runs(tmp_path, items)
    rows = {row["id"]: row for row in viewer.rows([run])["dialogues"]}
    assert viewer.one(run, "u001.0") == rows["u001.0"]
    assert viewer.one(run, "nobody") is None


def test_tokens_of_another_text_are_ignored(tmp_path: Path, items: pl.DataFrame) -> None:
    right = replayed()
    other = right._replace(tokens=right.tokens.with_columns(pl.col("piece").str.replace("He", "Hi")))
    first = viewer.rows(viewed_runs(tmp_path, items), [other])["dialogues"][0]
    assert first["turns"][0]["pieces"] == [("Seen ", "", None), (HEAT, "item target", None), ("?", "", None)]


def test_the_file_is_complete_and_no_text_ends_its_data(tmp_path: Path, items: pl.DataFrame) -> None:
    runs = viewed_runs(tmp_path, items)
    html = viewer.document(runs)
    assert len(re.findall("<script", html)) == len(re.findall("</script", html)) == 2
    (data,) = re.findall(r"<script type=\"application/json\"[^>]*>(.*?)</script>", html, re.DOTALL)
    assert json.loads(data)["dialogues"][2]["turns"][1]["pieces"] == [[SCRIPT, "", None]]
    assert "src=" not in html.replace(data, "")
    assert "http" not in html.replace(data, "").replace("http-equiv", "")


def test_the_command_writes_the_page(tmp_path: Path, items: pl.DataFrame) -> None:
    runs = [str(run.path) for run in viewed_runs(tmp_path, items)]
    to = tmp_path / "look.html"
    done = CliRunner().invoke(main, ["look", *runs, "--to", str(to)])
    assert (done.exit_code, done.output.strip()) == (0, str(to))
    assert "<title>6 dialogues</title>" in to.read_text(encoding="utf-8")
    done = CliRunner().invoke(main, ["look", "run-a", "run-b", "--to", str(to), "--reports", str(tmp_path)])
    assert (done.exit_code, "<title>6 dialogues</title>" in to.read_text(encoding="utf-8")) == (0, True)
    done = CliRunner().invoke(main, ["look", *runs, "--dialogue", "u009.0"])
    assert (done.exit_code, "no run has a dialogue 'u009.0'" in done.stderr) == (1, True)
    with pytest.raises(CrsError, match="holds no dialogues"):
        viewer.show(Run(tmp_path))
