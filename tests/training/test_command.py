"""`crs train`, its notebook and `crs prefer` on a few real-model steps: an adapter comes of it that speaks."""

import contextlib
import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("safetensors", reason="needs the extra train")

from crslib.cli.main import main
from crslib.config import PreferenceParameters, TrainingParameters
from crslib.data.corpora import redial
from crslib.dialogue import utterances, views
from crslib.dialogue.templates import ChatTemplate
from crslib.engines import llama
from crslib.errors import CrsError
from crslib.experiments import pipeline
from crslib.identity import file_sha256
from crslib.judging.llm import LocalJudge
from crslib.store import Run
from crslib.training import commands, examples, preferences, run
from crslib.training.judge import question, scores
from tests.support.tiny_redial import write

pytestmark = pytest.mark.model


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in ReDial's schema with six short dialogues. Without a compiler: compiling would take far longer."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    return write(tmp_path / "redial" / "train.jsonl").parent


@pytest.mark.notebook
def test_a_run_talks_with_the_adapter_of_the_command(corpus: Path, tmp_path: Path) -> None:
    to = tmp_path / "user"
    command = ["train", "user", "--redial", str(corpus), "--limit", "5", "--epochs", "2", "--to", str(to)]
    done = CliRunner().invoke(main, [*command, "--validation", "0", "--lr", "0.001", "--without", "notes"])
    assert done.exit_code == 0, done.output
    log = pl.read_parquet(to / "log.parquet")
    assert log["loss"][-1] < log["loss"][0]
    figures = json.loads((to / "figures.json").read_text(encoding="utf-8"))
    assert figures["examples"] == 5
    with contextlib.closing(llama.Model(llama.model_path(llama.BUILT_IN))) as model:
        talks, template = redial.read(corpus, "train")[:5], ChatTemplate(*model.chat_template)
        whole, bare = (
            examples.examples(talks, "user", model, template, redial.items(), notes=notes) for notes in (True, False)
        )
    assert figures["tokens"] == 2 * examples.count(bare)["tokens"] < 2 * examples.count(whole)["tokens"]
    card = (to / "README.md").read_text(encoding="utf-8")
    assert "`crs train user --redial redial --limit 5 --epochs 2 --lr 0.001 --validation 0.0 --without notes`" in card
    assert "5 dialogues of ReDial" in card and str(tmp_path) not in card
    short = {"user_adapter": to / "user.gguf", "weights": "Q8_0", "n_profiles": 2, "max_turns": 2, "max_tokens": 8}
    given = [word for name, value in {**short, "n_ctx": 512, "width": 2}.items() for word in ("-p", f"{name}={value}")]
    talked = CliRunner().invoke(main, ["run", *given, "--reports", str(tmp_path / "reports")])
    assert talked.exit_code == 0, talked.output
    (run_folder,) = (tmp_path / "reports" / "runs").iterdir()
    assert Run(run_folder).info["engines"]["user"]["adapter_sha256"] == file_sha256(to / "user.gguf")
    assert Run(run_folder).read("turns").filter(role="user")["n_tokens"].sum() > 0
    again = CliRunner().invoke(main, ["train", "user", "--redial", str(tmp_path), "--to", str(to)])
    assert again.exit_code == 1
    assert "has no file train*.jsonl" in again.output
    refused = CliRunner().invoke(main, ["train", "recommender", "--without", "notes"])
    assert refused.exit_code == 1
    assert "crs: without = 'notes' is for the roles user and user-target; leave it out" in refused.output


def test_dialogues_are_passed_over_and_counted(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[list[str]] = []
    monkeypatch.setattr(run, "train", lambda _, given, *__, **___: taught.append([one.dialogue_id for one in given]))
    of = {"role": "user", "redial": str(corpus), "to": str(tmp_path / "to")}
    for given in ({}, {"skip": 2}, {"skip": 2, "limit": 3}, {"skip": 4, "limit": 3}):
        commands.train(TrainingParameters(**of, **given))
    whole = taught[0]
    assert taught == [whole, whole[2:], whole[2:5], whole[4:]] and len(whole) == 6
    with pytest.raises(CrsError, match="skip = 6 leaves none of 6 dialogues; pass over fewer"):
        commands.train(TrainingParameters(**of, skip=6))


def test_the_notebook_trains(corpus: Path, tmp_path: Path) -> None:
    given = {"role": "recommender", "redial": str(corpus), "epochs": 1, "validation": 0.3, "to": str(tmp_path / "to")}
    (tmp_path / "run").mkdir()
    pipeline.execute_notebook("06_train", tmp_path / "run", given)
    assert (tmp_path / "to" / "recommender.gguf").stat().st_size < 8 << 20
    figures = json.loads((tmp_path / "to" / "figures.json").read_text(encoding="utf-8"))
    assert figures["validation_examples"] > 0
    assert set(figures["after"]) == {"all", "text", "title", "end"}


def test_continuations_are_made_once_and_judged(corpus: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    asked = PreferenceParameters(
        role="recommender", redial=str(corpus), to=str(to), contexts=3, draws=2, judge="smollm2", threads=2
    )

    def made() -> pl.DataFrame:
        with contextlib.suppress(CrsError):  # of so few none may be clearly better than another
            commands.pairs(asked)
        return pl.read_parquet(to / "candidates.parquet")

    first = made()
    assert first["context_id"].n_unique() == 3
    assert first["draw"].to_list() == [0, 1] * 3
    assert first["judge"].is_between(0, 1).all()
    assert first["exists"].drop_nulls().is_between(0, 1).all()
    journal = (to / "journal.jsonl").read_bytes()
    assert made().equals(first)
    assert (to / "journal.jsonl").read_bytes() == journal


def test_preferences_are_learnt(corpus: Path, tmp_path: Path) -> None:
    with contextlib.closing(llama.Model(llama.model_path(llama.BUILT_IN))) as model:
        prompt = ChatTemplate(*model.chat_template).encode([views.Message("user", "Have you seen it?")], model)
        good, bad = (model.encode(text) for text in ("I hated it", "I loved it"))
    rows = [(f"{n}:00", "user", prompt, good, bad, [], "I hated it", "I loved it") for n in range(4)]
    pairs = pl.DataFrame(rows, schema=preferences.PAIRS, orient="row")
    to = tmp_path / "to"
    asked = PreferenceParameters(role="user", redial=str(corpus), to=str(to), epochs=4, validation=0.25, lr=0.001)
    figures = commands.prefer(asked, pairs)
    assert (figures["examples"], figures["validation_examples"]) == (3, 1)
    assert figures["after"]["margin"] > figures["before"]["margin"] == 0
    assert figures["after"]["accuracy"] == 1
    assert (to / "user.gguf").stat().st_size < 8 << 20
    assert "the adapter user.gguf (SHA-256" in (to / "README.md").read_text(encoding="utf-8")


def test_a_judge_reads_the_whole_view() -> None:
    with LocalJudge(llama.model_path(llama.BUILT_IN), 2) as judge:
        view = (views.Message("system", "You watch movies."), views.Message("user", "Have you seen\n(Up: seen, liked)"))
        context = preferences.Context("a", "a", utterances.USER, "", view, (), (), {})
        text = question(context, "I have")[1].text
        assert text.startswith("What the seeker was told: You watch movies.\nRecommender: Have you seen (Up: seen")
        assert "Reply of the seeker: I have\n" in text
        made = pl.DataFrame({"context_id": ["a", "a"], "raw": ["I have", "Bananas are blue"]})
        one, other = scores(judge, [context], made)
        assert 0 < one < 1 and one != other
