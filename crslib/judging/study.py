"""A study on disk: what is asked, who has answered what. Every answer is on disk before the next question is shown.

A study is a folder: `study.json`, table `pairs`, and `votes.jsonl`, to which records are only ever added. An undo is a
record; so is a rater's first visit. Several raters, also in several processes, write to the same file: each holds it
for one record. A rater's browser is told what it shows and no more: no condition, no id, no kind of a pair.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from crslib import schemas
from crslib.dialogue.utterances import one_line, pieces
from crslib.errors import CrsError
from crslib.identity import digest
from crslib.judging.pairs import Question, Showing, build, read_questions, schedule
from crslib.store import Run, find_runs, journal, now, read_parquet, write_parquet, writing

LEFT, RIGHT, TIE = "left", "right", "tie"
CHOICES = (LEFT, TIE, RIGHT)
_VOTE = tuple(schemas.TABLES["votes"])
_SWAP = {LEFT: RIGHT, RIGHT: LEFT, TIE: TIE}


class Study:
    """One study's folder: its questions and pairs, and the votes of its raters."""

    def __init__(self, path: Path) -> None:
        """Opens the study in folder `path`. Raises `CrsError` when there is none."""
        self.path = path
        try:
            self.info: dict[str, Any] = json.loads((path / "study.json").read_text(encoding="utf-8"))
            self.questions = [Question(**row) for row in self.info["questions"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CrsError(f"{path} holds no readable study.json ({error}); make one with `crs people serve`") from None
        self.pairs = read_parquet(path / "pairs.parquet", "pairs")
        self._schedules: dict[int, list[Showing]] = {}
        self._rows = {row["pair_id"]: row for row in self.pairs.iter_rows(named=True)}

    @classmethod
    def of(
        cls,
        runs: Mapping[str, Run],
        n_pairs: int,
        seed: int,
        questions: Sequence[Question],
        folder: Path,
        redial: Path | None = None,
    ) -> "Study":
        """The study of these runs (condition → run) below `folder`: the one that is there already, or a new one.

        With `redial` (ReDial's zip or folder) a human dialogue is on one side of every pair; such a pair has no
        profile, so nothing is asked about one.

        Raises `CrsError` when no such pairs can be built, or the folder cannot be written.
        """
        pairs = build(runs, n_pairs, seed, redial)
        asked = [asdict(question) for question in questions if not (redial and question.profile)]
        study_id = digest({"pairs": pairs["pair_id"].to_list(), "questions": asked, "seed": seed}, "study")
        path = folder / study_id
        if not (path / "study.json").exists():
            write_parquet(pairs, path / "pairs.parquet")
            facts = {
                "study_id": study_id,
                "seed": seed,
                "redial": str(redial) if redial else None,
                "runs": {condition: {"run_id": run.run_id, "path": str(run.path)} for condition, run in runs.items()},
                "questions": asked,
                "made": now(),
            }
            with writing(path / "study.json") as temporary:
                temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return cls(path)

    # ── what a rater's page asks for ──────────────────────────────────────────────────────────────────────────────

    def state(self, rater: str) -> dict[str, Any]:
        """What this rater's page shows now. Who is new joins, and so gets an order and sides of their own."""
        rater = one_line(rater)
        if not 0 < len(rater) <= 40:
            raise CrsError(f"{rater!r} is no name; write up to 40 letters")
        with self._journal() as kept:
            if rater not in _raters(kept.records):
                kept.append({"act": "join", "rater": rater, "key": digest(rater, "join"), "at": _now()})
            return self._shown(kept.records, rater)

    def vote(self, rater: str, key: str, order: int, criterion: str, choice: str, seconds: float) -> dict[str, Any]:
        """Keeps an answer and returns the next state.

        `key` is the page's name for this answer: sent again, it counts once. An answer to a question that is not the
        current one (a second window, perhaps) is not kept; the state says so. Raises `CrsError` for what is no answer.
        """
        if choice not in CHOICES:
            raise CrsError(f"{choice!r} is no choice; it is one of {', '.join(CHOICES)}")
        _check_key(key)
        if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise CrsError(f"{seconds!r} is no number of seconds")
        with self._journal() as kept:
            if any(record["key"] == key for record in kept.records):
                return self._shown(kept.records, rater)
            showings, answered = self._showings(kept.records, rater), _standing(kept.records, rater)
            pair, question = self._place(showings, len(answered))
            if question is None or (pair, question.criterion) != (order, criterion):
                return {**self._shown(kept.records, rater), "note": "This had been answered before; here is the next."}
            told = {"criterion": criterion, "rater": rater, "choice": choice, "preference": None}
            told |= {"order": len(answered), "seconds": round(float(seconds), 3), "at": _now()}
            row = {**self._seen(showings[pair]), **told}
            kept.append({"act": "vote", "rater": rater, "key": key, "vote": {name: row[name] for name in _VOTE}})
            return self._shown(kept.records, rater)

    def undo(self, rater: str, key: str) -> dict[str, Any]:
        """Takes back this rater's last answer that still stands; returns the state before it. `key` as in `vote`."""
        _check_key(key)
        with self._journal() as kept:
            answered = _standing(kept.records, rater)
            if answered and not any(record["key"] == key for record in kept.records):
                kept.append({"act": "undo", "rater": rater, "key": key, "undone": answered[-1]["key"], "at": _now()})
            return self._shown(kept.records, rater)

    # ── what comes of it ──────────────────────────────────────────────────────────────────────────────────────────

    def votes(self) -> pl.DataFrame:
        """All votes that stand, imported ones too: table `votes`, by rater and order."""
        with self._journal() as kept:
            records = list(kept.records)
        rows = [record["vote"] for rater in _raters(records) for record in _standing(records, rater)]
        rows += [record["vote"] for record in records if record["act"] == "import"]
        frame = pl.DataFrame(rows, schema=dict(schemas.TABLES["votes"]))
        return schemas.check(frame.sort("rater", "order", "at", "pair_id", "criterion"), "votes")

    def take(self, votes: pl.DataFrame) -> int:
        """Adds votes that were given elsewhere (table `votes`), each once; returns how many were new.

        Raises `CrsError` for a vote on a pair that is not of this study, or that is no vote.
        """
        rows = schemas.check(votes, "votes").to_dicts()
        for row in rows:
            if row["pair_id"] not in self._rows:
                raise CrsError(
                    f"pair {row['pair_id']!r} is not in the study {self.path}; import votes of its own pairs"
                )
            if row["choice"] not in CHOICES:
                raise CrsError(f"{row['choice']!r} is no choice; it is one of {', '.join(CHOICES)}")
        with self._journal() as kept:
            keys = {record["key"] for record in kept.records}
            own = {digest(record["vote"], "vote") for record in kept.records if record["act"] == "vote"}
            before = len(keys)
            for row in rows:
                if (key := digest(row, "vote")) not in keys | own:
                    kept.append({"act": "import", "rater": row["rater"], "key": key, "vote": row})
                    keys.add(key)
        return len(keys) - before

    def _journal(self) -> Any:
        return journal(self.path / "votes.jsonl")

    def _showings(self, records: Sequence[Mapping[str, Any]], rater: str) -> list[Showing]:
        """What this rater sees; their number is their place among those who ever joined."""
        there = _raters(records)
        if rater not in there:
            raise CrsError(f"{rater!r} has not begun; open the page with that name first")
        number = there.index(rater)
        if number not in self._schedules:
            self._schedules[number] = schedule(self.pairs, number, self.info["seed"])
        return self._schedules[number]

    def _place(self, showings: Sequence[Showing], answers: int) -> tuple[int, Question | None]:
        """The pair and the question that come after so many answers; no question when all is answered."""
        pair, step = divmod(answers, len(self.questions))
        return pair, self.questions[step] if pair < len(showings) else None

    def _seen(self, showing: Showing) -> Mapping[str, Any]:
        """The row of `pairs` with the sides as they are shown."""
        row = self._rows[showing.pair_id]
        if not showing.swapped:
            return row
        return row | {
            f"{side}_{part}": row[f"{_SWAP[side]}_{part}"]
            for side in (LEFT, RIGHT)
            for part in ("run", "condition", "dialogue", "turns")
        }

    def _shown(self, records: Sequence[Mapping[str, Any]], rater: str) -> dict[str, Any]:
        showings = self._showings(records, rater)
        answers = len(_standing(records, rater))
        pair, question = self._place(showings, answers)
        state = {
            "rater": rater,
            "order": pair,
            "pairs": len(showings),
            "step": answers % len(self.questions),
            "steps": len(self.questions),
            "undo": answers > 0,
            "done": question is None,
            "note": "",
        }
        if question is None:
            return state
        row = self._seen(showings[pair])
        profile = {"summary": row["summary"], "attributes": row["attributes"]} if question.profile else None
        return state | {
            "criterion": question.criterion,
            "question": question.question,
            "profile": profile,
            LEFT: _readable(row["left_turns"]),
            RIGHT: _readable(row["right_turns"]),
        }


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not 0 < len(key) <= 100:
        raise CrsError(f"{key!r} is no key of an answer; it is a text of up to 100 letters")


def _raters(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who joined, in the order in which they came."""
    return [record["rater"] for record in records if record["act"] == "join"]


def _standing(records: Sequence[Mapping[str, Any]], rater: str) -> list[Mapping[str, Any]]:
    """The rater's votes that were not taken back, in order: an undo always takes the last one."""
    stack: list[Mapping[str, Any]] = []
    for record in records:
        if record["rater"] == rater and record["act"] == "vote":
            stack.append(record)
        elif record["rater"] == rater and record["act"] == "undo":
            stack.pop()
    return stack


def _readable(turns: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    return [{"role": turn["role"], "pieces": pieces(turn["text"])} for turn in turns]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def find(paths: Sequence[Path], n_pairs: int, seed: int, folder: Path, redial: Path | None = None) -> Study:
    """The study that is meant: the one in the only path, or the one of these runs below `folder`, made if need be.

    `redial`: ReDial's zip or folder, for pairs with a human dialogue on one side.

    Raises `CrsError` as `find_runs`, and when no such pairs can be built.
    """
    if len(paths) == 1 and (paths[0] / "study.json").exists():
        return Study(paths[0])
    return Study.of(find_runs(paths), n_pairs, seed, read_questions(), folder, redial)
