"""Usefulness: figures by hand, and a whole measurement with a random llama whose tokens are words."""

import json
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="needs the extra train")

from crslib.cli.main import main
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.engines import llama
from crslib.errors import CrsError
from crslib.experiments.benchmarks import recommender, usefulness
from crslib.store import Run
from crslib.training import examples
from tests.experiments.benchmarks.test_recommender import NAMES, TEST, TRAIN, RuleModel
from tests.support.metrics_frames import talk
from tests.support.tiny_llama import N_VOCAB, write_gguf
from tests.support.tiny_redial import write


def test_of_a_run_only_texts_are_used() -> None:
    secret = {("a.0", 1): [("Up (2009)", True, False)]}
    (one,) = usefulness.as_texts(talk({"a.0": ["R: Seen [[Up (2009)]]?", "U: No"]}, secret)[1])
    assert [(turn.role, turn.text, turn.mentions) for turn in one.turns] == [
        (RECOMMENDER, "Seen [[Up (2009)]]?", ()),
        (USER, "No", ()),
    ]
    assert (one.dialogue_id, one.user, one.recommender, one.items) == ("a.0", "", "", {})


def test_films_named_most_by_hand() -> None:
    # Heat 3, The Matrix 2, Notting Hill and Up 1, Alien 0.
    assert list(usefulness.often_named(NAMES, TRAIN, 3)) == ["1", "2", "3"]
    assert usefulness.often_named(NAMES, TRAIN, 0) == NAMES


def test_places_and_shares_by_hand() -> None:
    films = {item: NAMES[item] for item in ("2", "3", "4")}
    places = list(usefulness.ranked(RuleModel(), recommender.cases(TEST), films))
    # Up is read as 3 bytes, The Matrix as 12, Notting Hill as 14, a nat each; then Up is out and Heat no candidate.
    assert places == [
        ("a", 1, pytest.approx(math.log(1 + math.exp(3 - 12) + math.exp(3 - 14)))),
        ("a", 1, pytest.approx(math.log(1 + math.exp(12 - 14)))),
    ]


def _record(source: str, n: int, parts: list[tuple[str, str, float, float]]) -> dict[str, object]:
    return {"source": source, "n": n, "steps": 1, "tokens": 9, "own_tokens": 4, "parts": parts}


def test_figures_and_differences_by_hand() -> None:
    sums = pl.DataFrame(
        {
            "dialogue_id": ["a", "a", "b"],
            "kind": [examples.TEXT, examples.TITLE, examples.TEXT],
            "nats": [6.0, 1.0, 5.0],
        }
    ).with_columns(pl.lit(2).alias("n"))
    words = usefulness.word_parts(sums)
    films = usefulness.film_parts([("a", 1, 0.5), ("a", 20, 2.5)])
    better = [(dialogue, metric, part / 2, whole) for dialogue, metric, part, whole in words]
    records = [_record("human", 3, words + films), _record("run", 3, better), _record("run", 6, better)]
    value = {row[:2] + row[5:6]: row[6] for row in usefulness.figures(records).iter_rows()}
    assert value["human", 3, usefulness.ALL] == pytest.approx((6 + 1 + 5) / 6)
    assert value["human", 3, "outside titles"] == pytest.approx((6 + 5) / 4)
    assert value["human", 3, "inside titles"] == pytest.approx(1 / 2)
    assert value["human", 3, usefulness.FILM] == pytest.approx(1.5)
    assert [value["human", 3, name] for name in usefulness.RANKS] == pytest.approx([0.5, 0.5, 1, (1 + 1 / 20) / 2])
    assert ("human", 3, "end of turn") not in value
    differed = usefulness.differences(records, ["run", "human"])
    assert differed.select("source", "against", "n").unique().rows() == [("run", "human", 3)]
    assert differed["metric"].to_list() == [usefulness.ALL, "outside titles", "inside titles"]
    assert differed["value"].to_list() == pytest.approx([-1, -11 / 8, -1 / 4])
    low, high = differed.select("low", "high").row(0)
    # Only a, only b or both: half of 7/4, 5/2 and 12/6, around their own mean.
    assert -1.25 - 0.1 < low < -1 < high < -0.875 + 0.1


class Words:
    """Replaces `llama.Model`: a tokenizer of words with a vocabulary of `N_VOCAB`."""

    chat_template = ("", "", "")

    def __init__(self, path: Path) -> None:
        self.path = path

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        return [zlib.crc32(word.encode()) % N_VOCAB for word in re.findall(r"<\|\w+\|>|\w+|\S", text)]

    def close(self) -> None: ...


class Even:
    """Replaces `llama.LlamaEngine`: titles of the same length are equally likely."""

    def __init__(self, model: Words, adapter: Path | None, **_: object) -> None:
        assert adapter is None or adapter.stat().st_size
        self.encode, self.chat_template = model.encode, model.chat_template

    def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> np.ndarray:
        return -np.array([len(one) for one in continuations], dtype=np.float64)

    def score_tokens(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[np.ndarray]:
        return [-np.ones(len(one)) for one in continuations]

    def close(self) -> None: ...


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Arguments of `measure`: six human dialogues, two tested on, two runs of six short and six long ones."""
    tiny = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(llama, "model_path", lambda name: tiny)
    monkeypatch.setattr(llama, "Model", Words)
    monkeypatch.setattr(llama, "LlamaEngine", Even)
    write(tmp_path / "redial" / "train.jsonl")
    write(tmp_path / "redial" / "test.jsonl", 2)
    films = [
        f"{100 + n}{tail},{name} Sea {n} ({year})"
        for n in range(6)
        for tail, name, year in (("", "Quiet", 1999), ("9", "Loud", 2004))
    ]
    (tmp_path / "redial/movies_with_mentions.csv").write_text(
        "\n".join(["movieId,movieName", *films]), encoding="utf-8"
    )
    for name, said in (
        ("short", "R: Hi"),
        ("long", "R: Have you seen [[Loud Sea 1 (2004)]]? It is a film of the sea."),
    ):
        dialogues, turns = talk({f"u{n}.0": [said, "U: No"] for n in range(6)})
        run = Run(tmp_path / name)
        run.write("dialogues", dialogues.with_columns(pl.lit(name).alias("condition")))
        run.write("turns", turns)
    return {"path": tmp_path / "redial", "runs": [tmp_path / "short", tmp_path / "long"], "to": tmp_path / "to"}


def test_a_killed_call_resumes_and_all_sources_have_as_many_steps(bench: dict[str, object], tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done >= 20:
            raise KilledError

    whole = usefulness.measure(**{**bench, "to": tmp_path / "other"}, sizes=[5, 6])
    with pytest.raises(KilledError):
        usefulness.measure(**bench, sizes=[6, 5], progress=kill)
    journal = tmp_path / "to" / "journal.jsonl"
    before = journal.read_bytes()
    assert 0 < before.count(b"\n") < 7
    reached: list[tuple[int, int]] = []
    points, differed = usefulness.measure(**bench, sizes=[6, 5], progress=lambda *count: reached.append(count))
    assert journal.read_bytes().startswith(before)
    assert points.equals(whole[0]) and differed.equals(whole[1])
    assert reached[-1] == (3 * 11 + 7 * 2,) * 2
    assert not list((tmp_path / "to").glob("*.pt"))
    steps = points.unique(["source", "n"], maintain_order=True).select("source", "n", "steps")
    assert steps.rows() == [("base", 0, 0), *((s, n, 2) for n in (5, 6) for s in ("short", "long", "human"))]
    size = dict(points.filter(n=6).select("source", "own_tokens").iter_rows())
    assert size["short"] == 6 * 3 < size["long"]  # "Hi", its end, and the end after the seeker's last words
    assert set(differed.select("source", "against", "n").unique().iter_rows()) == {
        ("short", against, n) for against in ("long", "human") for n in (5, 6)
    }


def test_the_command_writes_table_figures_and_curves(bench: dict[str, object], tmp_path: Path) -> None:
    command = ["bench", "usefulness", "--path", str(bench["path"]), str(tmp_path / "long"), "--to", str(bench["to"])]
    files = ["--json", str(tmp_path / "figures.json"), "--chart", str(tmp_path / "curve.svg")]
    done = CliRunner().invoke(main, [*command, "--size", "4", *files])
    assert done.exit_code == 0, done.output
    assert [line.split(" | ")[:2] for line in done.output.splitlines() if line.startswith("| long")] == [
        ["| long", "4"],
        ["| long − human", "4"],
    ]
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert {row["source"] for row in figures["points"]} == {"base", "long", "human"}
    assert "tokens of the recommender" in (tmp_path / "curve.svg").read_text(encoding="utf-8")
    again = CliRunner().invoke(main, [*command, "--size", "7"])
    assert again.exit_code == 1
    assert "long has 6 dialogues to train on, 7 are asked for" in again.output


def test_two_runs_of_a_name_are_refused(bench: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(CrsError, match="two sources are called 'short'"):
        usefulness.measure(**{**bench, "runs": [tmp_path / "short"] * 2}, sizes=[2])


def test_a_curated_set_stands_beside_the_run_it_was_chosen_from(bench: dict[str, object], tmp_path: Path) -> None:
    """Its dialogues have the condition of their run, which is the name of that run."""
    short = Run(tmp_path / "short")
    chosen = Run(tmp_path / "chosen")
    for name in ("dialogues", "turns"):
        chosen.write(name, short.read(name))
    chosen.update(parameters={"condition": "chosen"})
    points, _ = usefulness.measure(**{**bench, "runs": [short.path, chosen.path]}, sizes=[2])
    assert points["source"].unique(maintain_order=True).to_list() == ["base", "short", "chosen", "human"]
