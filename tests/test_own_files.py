"""Any byte of any file that this library wrote may be flipped, lost or doubled, and the file cut: what is read then is
of the right type, or there is one sentence. A program that a damaged file makes fail says nothing of the file.
"""

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crslib.agents.server import Answer, Answers
from crslib.config import ROOT, SimulationParameters
from crslib.dialogue import acts
from crslib.dialogue.discriminator import Discriminator
from crslib.engines import preparation, weights
from crslib.errors import CrsError
from crslib.experiments import comparison, pipeline
from crslib.judging import rubrics
from crslib.judging.study import Study, open_study
from crslib.metrics import embedding, reference
from crslib.recommender import mixture
from crslib.reporting import html
from crslib.runs import find_runs, scan
from crslib.simulation.dialogues import Dialogues, keep_wanted
from crslib.store import Run
from tests.judging.test_rubrics import Scripted, first_place, judged, talks
from tests.support.people_runs import make_runs

DOCUMENT, LINES, OTHER = "document", "lines", "other"


@dataclass(frozen=True)
class File:
    """A file of our own: what writes it into a folder, and what reads it and uses what it read. `form`: a JSON
    document has no meaning when it is cut or there twice; of JSON lines the last may be lost."""

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    form: str = DOCUMENT
    examples: int = 60


# ── a run ───────────────────────────────────────────────────────────────────────────────────────────────────────────

RUN = {
    "run_id": "r1",
    "status": "success",
    "started": "2026-01-01T00:00:00+00:00",
    "finished": None,
    "stages": {"01_profiles": 1.5},
    "files": {"01_profiles": {"profiles.parquet": "ab"}},
    "parameters": {"condition": "c", "seed": 0, "baseline": "", "human": "data/human"},
    "parameters_given": {"seed": 0},
    "agents": {"user": {"model_sha256": "ab", "adapter_sha256": None}, "recommender": {"agent": "http", "url": "u"}},
    "usage": {"user": {}, "recommender": {"tokens_in": 10, "tokens_out": 20, "price": 0.5}},
    "n_failed": 0,
    "audit": {"prompts": 4, "held-out_title": None},
    "opinion_auc": {"value": 0.6, "low": 0.5, "high": None, "n": 9},
    "source": {"name": "a.jsonl", "form": "trl", "sha256": "ab", "lines": ["4 dialogues"]},
    "lacking": ["prompts"],
    "machine": {"cpu": "x", "cores": 2},
    "git": {"commit": "ab", "dirty": False},
    "error": None,
    "traceback": None,
}


def write_run(folder: Path) -> Path:
    Run(folder).update(**RUN)
    return folder / "run.json"


def use_run(folder: Path) -> Any:
    run, said = Run(folder), []
    listed = scan(folder, said.append)
    assert len(listed) + len(said) == 1
    info = run.info
    html._facts(info)
    pipeline.is_complete(run)
    if not info.get("n_failed"):
        pipeline.afterwards(run)
    run.update(status=info.get("status", ""))  # what was read can be written
    return info


def write_sweep(folder: Path) -> Path:
    rows = [
        {"run_id": str(n), "path": f"../{n}", "state": "error", "values": {"seed": n, "memory": None}, "error": "no"}
        for n in (1, 2)
    ]
    text = json.dumps({"sweep_id": "s", "axes": ["memory", "seed"], "conditions": rows}, indent=2)
    (folder / "sweep.json").write_text(text)
    return folder / "sweep.json"


def use_sweep(folder: Path) -> Any:
    find_runs([folder])
    return comparison.read(str(folder)).conditions.to_dicts()


def write_progress(folder: Path) -> Path:
    with Run(folder).progress("dialogues") as progress:
        progress(3, 8)
    return folder / "progress.json"


def write_journal(folder: Path) -> Path:
    with Run(folder).journal() as journal:
        for name in ("u0.0", "u1.0"):
            dialogue = {"dialogue_id": name, "profile_id": name[:2], "opener": "user", "seed": 7, "n_turns": 1}
            dialogue |= {"stop_reason": "user_left", "user_style": None, "recommender_style": None}
            turn = {"dialogue_id": name, "turn": 0, "role": "user", "text": "Hi [[Up (2009)]]", "n_tokens": 4}
            turn |= {"items": [{"item_id": "6", "title": "Up (2009)", "start": 3, "end": 16}], "notes": []}
            turn |= {"mean_logprob": -1.5, "finish": "end"}
            prompt = {"dialogue_id": name, "turn": 0, "role": "user", "text": "p", "n_tokens": 1}
            parts = {"dialogue": dialogue, "turns": [turn], "prompts": [prompt]}
            journal.append({"key": "k", **parts, "usage": {"user": [0, 0], "recommender": [1, 2]}})
    return folder / "journal.jsonl"


def use_journal(folder: Path) -> Any:
    with Run(folder).journal() as journal:
        keep_wanted(journal, "k", {"u0.0", "u1.0"})
        made = Dialogues.of(journal, SimulationParameters(), {})
    return made.dialogues.to_dicts(), made.turns.to_dicts()


def write_table(folder: Path) -> Path:
    pl.read_parquet(ROOT / "data/items.parquet").head(20).write_parquet(folder / "items.parquet", statistics=False)
    return folder / "items.parquet"


# ── people and judges ───────────────────────────────────────────────────────────────────────────────────────────────


def write_study(folder: Path) -> Path:
    made = open_study(make_runs(folder, 4), 2, 0, folder / "people")
    for name in ("study.json", "pairs.parquet"):
        (made.path / name).rename(folder / name)
    return folder / "study.json"


def use_study(folder: Path) -> Any:
    study = Study(folder)
    study.state("zoe")
    return study.info


def write_votes(folder: Path) -> Path:
    write_study(folder)
    study = Study(folder)
    for number in range(3):
        state = study.state("ann")
        study.vote("ann", f"k{number}", state["order"], state["criterion"], "left", 1.5)
    study.undo("ann", "u")
    study.add(study.votes().with_columns(rater=pl.lit("eve")))
    return folder / "votes.jsonl"


def use_votes(folder: Path) -> Any:
    study = Study(folder)
    study.state("ann")
    return study.votes().to_dicts()


def write_judged(folder: Path) -> Path:
    judged(Scripted(first_place), folder, pairs=1)
    return folder / "journal.jsonl"


def use_judged(folder: Path) -> Any:
    with Run(folder).journal(valid=rubrics._is_answer) as journal:
        asked = {"overall": rubrics.Criterion(question="q", low="l", high="h", profile=False)}
        runs = [talks("x", "good", 1), talks("y", "bad", 1)]
        return rubrics.judge_dialogues(Scripted(first_place), runs, asked, 1, journal)["marks"]["mark"].to_list()


# ── caches and stored figures ───────────────────────────────────────────────────────────────────────────────────────

KEY = {"model": "a", "adapter": "b", "cpu": "c", "llama_cpp_python": "d"}


def write_measured(folder: Path) -> Path:
    figures = {"loss": 0.01, "prefill": 800.5, "decode": 90.0, "tokens_per_s": 222.5}
    content = {**KEY, "formats": {fmt: figures for fmt in weights.FORMATS}}
    (folder / "formats.json").write_text(json.dumps(content, indent=1) + "\n")
    return folder / "formats.json"


def use_measured(folder: Path) -> Any:
    said: list[str] = []
    figures = preparation._measured_before(folder / "formats.json", KEY, said.append)
    assert (figures is None) == (len(said) == 1)
    if figures is None:
        raise CrsError(said[0])
    preparation.choose(figures)
    return figures


def write_notes(folder: Path) -> Path:
    (folder / "w.gguf").write_bytes(b"GGUF weights")
    weights._note(folder / "w.gguf", weights.file_sha256(folder / "w.gguf"))
    return folder / "w.sha256.json"


def write_titles(folder: Path) -> Path:
    np.save(folder / "t.npy", np.full((3, 4), -1.5, np.float32))
    return folder / "t.npy"


def write_answers(folder: Path) -> Path:
    answers = Answers(folder / "a.jsonl")
    for number in range(2):
        answers.add(f"k{number}", Answer("Hello", "end", 3, 4))
    answers.close()
    return folder / "a.jsonl"


def use_answers(folder: Path) -> Any:
    answers = Answers(folder / "a.jsonl")
    found = [answers.get(f"k{number}") for number in range(2)]
    answers.close()
    assert all(answer is None or isinstance(answer.text, str) for answer in found)
    return found


def write_discriminator(folder: Path) -> Path:
    Discriminator(0.5, {"hi": 1.25, "^ hi": -2.0}, {"role": "user"}).write(folder / "user.json")
    return folder / "user.json"


def use_discriminator(folder: Path) -> Any:
    judge = Discriminator.read(folder / "user.json")
    judge.log_odds("hi there")
    return judge


def copied(source: str, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        shutil.copytree(ROOT / source, folder, dirs_exist_ok=True)
        return folder / name

    return write


FILES = {
    "run.json": File(write_run, use_run),
    "sweep.json": File(write_sweep, use_sweep),
    "progress.json": File(write_progress, lambda folder: Run(folder).reached, OTHER),
    "journal of dialogues": File(write_journal, use_journal, LINES),
    "table": File(write_table, lambda folder: Run(folder).read("items").height, OTHER, 30),
    "study.json": File(write_study, use_study),
    "votes.jsonl": File(write_votes, use_votes, LINES),
    "journal of a judge": File(write_judged, use_judged, LINES, 30),
    "measured formats": File(write_measured, use_measured),
    "notes of weights": File(write_notes, lambda folder: weights._is_as_written(folder / "w.gguf"), OTHER),
    "table of titles": File(
        write_titles, lambda folder: mixture._cached(folder / "t.npy", np.zeros((3, 4), np.float32)) is None, OTHER
    ),
    "answers of a server": File(write_answers, use_answers, LINES),
    "discriminator": File(write_discriminator, use_discriminator),
    "figures of acts": File(
        copied("data/acts", "figures.json"), lambda folder: acts.read(folder).accuracy, DOCUMENT, 15
    ),
    "weights of acts": File(copied("data/acts", "user.csv"), lambda folder: acts.read(folder).identity, OTHER, 15),
    "reference.json": File(
        copied("data/human", "reference.json"), lambda folder: reference.read(folder).reference, DOCUMENT, 15
    ),
    "embeddings.json": File(
        copied("data/human", "embeddings.json"), lambda folder: embedding.read(folder).vendi, DOCUMENT, 15
    ),
}


@pytest.fixture(params=FILES)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[File, Path, Path]:
    file = FILES[request.param]
    return file, tmp_path, file.write(tmp_path)


def read(file: File, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a journal says which lines it leaves out
        return file.read(folder)


DAMAGE = ("flip", "cut", "lost", "doubled", "twice")


def damaged(raw: bytes, how: str, where: float, bit: int) -> bytes:
    at = int(where * len(raw))
    return {
        "flip": raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :],
        "cut": raw[:at],
        "lost": raw[:at] + raw[at + 1 :],
        "doubled": raw[: at + 1] + raw[at:],
        "twice": raw + raw,
    }[how]


def test_a_damaged_byte_gives_a_value_or_one_sentence(written: tuple[File, Path, Path]) -> None:
    file, folder, path = written
    raw = path.read_bytes()
    others = {other: other.read_bytes() for other in folder.rglob("*") if other.is_file() and other != path}
    whole = read(file, folder)
    assert read(file, folder) == whole

    @settings(max_examples=file.examples, derandomize=True, database=None)
    @given(
        how=st.sampled_from(DAMAGE),
        where=st.floats(0, 1, exclude_max=True),
        bit=st.integers(0, 7),
    )
    @example(how="cut", where=0.0, bit=0)
    @example(how="twice", where=0.0, bit=0)
    def holds(how: str, where: float, bit: int) -> None:
        for other, content in others.items():
            other.write_bytes(content)
        path.write_bytes(damaged(raw, how, where, bit))
        try:
            value = read(file, folder)
        except CrsError as error:
            assert "\n" not in str(error)
            assert how != "twice" or file.form != LINES
            return
        if how == "twice" and file.form != OTHER:
            assert file.form == LINES and value == whole
        if how == "cut" and file.form == DOCUMENT:
            assert value == whole

    holds()
