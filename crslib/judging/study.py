"""A study on disk: the questions and pairs that people are asked about, and their votes.

A study is a folder with `study.json`, table `pairs` and `votes.jsonl`, an append-only journal of votes, undos and first
visits. Every answer is on disk before the next question is shown. Several raters, also in several processes, write to
the same journal: each locks it for one record. A rater's page receives only what it shows: no condition, no id and no
sign of an attention check.
"""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from crslib import json_files, schemas
from crslib.dialogue.utterances import one_line, pieces
from crslib.errors import CrsError
from crslib.files import now, write_parquet, writing
from crslib.identity import digest
from crslib.judging.criteria import Question, read_questions
from crslib.judging.pairs import Showing, build, schedule
from crslib.judging.records import FACTS, RECORD, VOTE
from crslib.judging.votes import Votes
from crslib.runs import find_runs
from crslib.store import Run, read_parquet

LEFT, RIGHT, TIE = "left", "right", "tie"
CHOICES = (LEFT, TIE, RIGHT)
_VOTE = tuple(schemas.TABLES["votes"])
_SHOWN = ("pair_id", "left_run", "left_condition", "left_dialogue")  # tell the showings of one rater apart
_key = itemgetter(*_SHOWN, "criterion")
_SWAP = {LEFT: RIGHT, RIGHT: LEFT, TIE: TIE}
_PARTS = ("run", "condition", "dialogue")


class Study:
    """The folder of one study: `questions`, table `pairs`, and the votes of its raters."""

    def __init__(self, path: Path) -> None:
        """Opens the study in folder `path`. Raises `CrsError` when it holds none."""
        self.path = path
        if not (path / "study.json").is_file():
            raise CrsError(f"{path} holds no readable study.json; give the folder that `crs people serve` made")
        remedy = "remove this one file and `crs people serve` the same runs again: votes are kept"
        self.info = json_files.read_as(path / "study.json", FACTS, remedy)
        self.questions = self.info["questions"]
        self.pairs = read_parquet(path / "pairs.parquet", "pairs")
        self._votes = Votes(path / "votes.jsonl", self._is_record)
        self._schedules: dict[int, list[Showing]] = {}
        self._keys: dict[int, list[tuple[str, ...]]] = {}  # of all questions of a schedule, in order
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
        """The study of these runs (condition → run) below `folder`: the existing one, or a new one.

        With `redial` (ReDial's zip or folder) every pair has a human dialogue on one side. Such a pair has no profile,
        so questions about the profile are left out.

        Raises `CrsError` when there are too few dialogues, or the folder cannot be written.
        """
        pairs = build(runs, n_pairs, seed, redial)
        asked = [question.model_dump() for question in questions if not (redial and question.profile)]
        study_id = digest({"pairs": pairs["pair_id"].to_list(), "questions": asked, "seed": seed}, "study")
        facts = {
            "study_id": study_id,
            "redial": str(redial) if redial else None,
            "runs": {condition: {"run_id": run.run_id, "path": str(run.path)} for condition, run in runs.items()},
        }
        return cls.create(folder / study_id, pairs, asked, seed, facts)

    @classmethod
    def create(
        cls,
        path: Path,
        pairs: pl.DataFrame,
        questions: Sequence[Mapping[str, Any]],
        seed: int,
        facts: Mapping[str, Any],
    ) -> "Study":
        """The study in folder `path`: the existing one, or a new one of these pairs. `facts`: more for `study.json`."""
        if not (path / "study.json").exists():
            write_parquet(pairs, path / "pairs.parquet")
            content = {**facts, "seed": seed, "questions": list(questions), "created": now()}
            with writing(path / "study.json") as temporary:
                temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return cls(path)

    # ── requests of a rater's page ────────────────────────────────────────────────────────────────────────────────

    def state(self, rater: str) -> dict[str, Any]:
        """What this rater's page shows now. A new rater is recorded, which determines their order and sides. Raises
        `CrsError` for an empty name or one over 40 characters."""
        rater = one_line(rater)
        if not 0 < len(rater) <= 40:
            raise CrsError(f"{rater[:100]!r} is not a name; write 1 to 40 characters")
        with self._votes.open() as votes:
            if rater not in votes.numbers:
                number = max(votes.numbers.values(), default=-1) + 1
                joined = {"act": "join", "rater": rater, "number": number}
                votes.append({**joined, "key": digest(rater, "join"), "at": _now()})
            return self._page(votes, rater)

    def vote(self, rater: str, key: str, order: int, criterion: str, choice: str, seconds: float) -> dict[str, Any]:
        """Stores an answer and returns the next state.

        `key`: the page's own id of this answer; an answer that is sent again counts once. An answer to another question
        than the current one (from a second window, perhaps) is not stored, and the state has a note about it. Raises
        `CrsError` for an invalid answer, and for a rater without a `state` yet.
        """
        _check_choice(choice)
        _check_key(key)
        if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise CrsError(f"{seconds!r} is not a number of seconds; send one that is 0 or more")
        with self._votes.open() as votes:
            if key in votes.keys:
                return self._page(votes, rater)
            showings = self._showings(votes, rater)
            position = self._position(votes, rater)
            pair, question = self._asked(showings, position)
            if question is None or (pair, question.criterion) != (order, criterion):
                return {**self._page(votes, rater), "note": "This had been answered before; here is the next."}
            row = {
                **self._sides(showings[pair]),
                **{"criterion": criterion, "rater": rater, "choice": choice, "preference": None},
                **{"order": position, "seconds": round(float(seconds), 3), "at": _now()},
            }
            given = {"act": "vote", "rater": rater, "number": votes.numbers[rater], "key": key}
            votes.append({**given, "vote": {name: row[name] for name in _VOTE}})
            return self._page(votes, rater)

    def undo(self, rater: str, key: str) -> dict[str, Any]:
        """Withdraws this rater's last answer and returns the state before it. `key`: the page's own id of this undo,
        which counts once. Raises `CrsError` as `vote`."""
        _check_key(key)
        with self._votes.open() as votes:
            answers = votes.given(rater)
            if answers and key not in votes.keys:
                votes.append({"act": "undo", "rater": rater, "key": key, "undone": answers[-1]["key"], "at": _now()})
            return self._page(votes, rater)

    def together(self) -> contextlib.AbstractContextManager[None]:
        """Requests in the block are on disk when it ends, all after one wait. Raises `CrsError` when that fails: then
        none of them is stored."""
        return self._votes.together()

    # ── votes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def votes(self) -> pl.DataFrame:
        """All votes that were not withdrawn, with imported ones: table `votes`, by rater and order."""
        with self._votes.open() as votes:
            rows = [record["vote"] for rater in votes.numbers for record in votes.given(rater)]
            rows += [record["vote"] for record in votes.imported]
        frame = pl.DataFrame(rows, schema=dict(schemas.TABLES["votes"]))
        return schemas.check(frame.sort("rater", "order", "at", "pair_id", "criterion"), "votes")

    def add(self, votes: pl.DataFrame) -> int:
        """Adds votes that were given elsewhere (table `votes`), each once; returns how many were new.

        Raises `CrsError` for a vote on a pair of another study or by a criterion that it does not ask, with sides that
        the pair does not have, without a rater, or with an unknown choice.
        """
        rows = schemas.check(votes, "votes").to_dicts()
        for number, row in enumerate(rows, start=1):
            self.check(row, number)
        with self._votes.open() as stored:
            own = {digest(record["vote"], "vote") for record in stored.records if record["act"] == "vote"}
            before = len(stored.keys)
            for row in rows:
                if (key := digest(row, "vote")) not in stored.keys and key not in own:
                    stored.append({"act": "import", "rater": row["rater"], "key": key, "vote": row})
            return len(stored.keys) - before

    def check(self, row: Mapping[str, Any], number: int) -> None:
        """Raises `CrsError` unless `row` (of table `votes`, the `number`-th) may be a vote of this study."""
        if isinstance(row["choice"], str):
            _check_choice(row["choice"])
        if isinstance(row["pair_id"], str) and row["pair_id"] not in self._rows:
            raise CrsError(f"pair {row['pair_id']!r} is not in the study {self.path}; import votes of its own pairs")
        try:
            VOTE.validate_python(row)
        except ValidationError as error:
            name, _, why = json_files.fault(error).partition(" ")
            raise CrsError(f"vote {number}: {name} = {row[name]!r} {why}") from None
        asked = [question.criterion for question in self.questions]
        if row["criterion"] not in asked:
            raise CrsError(
                f"vote {number} is by {row['criterion']!r}; the study asks {', '.join(asked)}, so leave it out"
            )
        pair = self._rows[row["pair_id"]]
        own, given = ([[each[f"{side}_{part}"] for part in _PARTS] for side in (LEFT, RIGHT)] for each in (pair, row))
        if given not in (own, own[::-1]):
            raise CrsError(f"vote {number} has other dialogues than pair {row['pair_id']!r}; leave its sides out")

    def _is_record(self, record: Mapping[str, Any]) -> bool:
        """Whether a record of the journal is one of this study."""
        try:
            RECORD.validate_python(record)
        except ValidationError:
            return False
        vote = record.get("vote")
        asked = {question.criterion for question in self.questions}
        return vote is None or (vote["pair_id"] in self._rows and vote["criterion"] in asked)

    def _showings(self, votes: Votes, rater: str) -> list[Showing]:
        """The schedule of this rater, whose number is their position among all who joined."""
        number = votes.numbers.get(rater)
        if number is None:
            raise CrsError(f"{rater!r} has not begun; open the page with that name first")
        if number not in self._schedules:
            self._schedules[number] = schedule(self.pairs, number, self.info["seed"])
            self._keys[number] = [
                (*(sides[name] for name in _SHOWN), question.criterion)
                for sides in map(self._sides, self._schedules[number])
                for question in self.questions
            ]
        return self._schedules[number]

    def _position(self, votes: Votes, rater: str) -> int:
        """The number of questions before the first one without an answer: that of a lost vote, or the next. The rater
        has `_showings`."""
        # A pair that is shown again has its sides exchanged.
        given = {_key(answer["vote"]) for answer in votes.given(rater)}
        asked = self._keys[votes.numbers[rater]]
        return next((number for number, one in enumerate(asked) if one not in given), len(asked))

    def _asked(self, showings: Sequence[Showing], position: int) -> tuple[int, Question | None]:
        """The pair and the question at this position; no question when all are answered."""
        pair, step = divmod(position, len(self.questions))
        return pair, self.questions[step] if pair < len(showings) else None

    def _sides(self, showing: Showing) -> Mapping[str, Any]:
        """The row of `pairs` with its sides as this showing has them."""
        row = self._rows[showing.pair_id]
        if not showing.swapped:
            return row
        return row | {
            f"{side}_{part}": row[f"{_SWAP[side]}_{part}"] for side in (LEFT, RIGHT) for part in (*_PARTS, "turns")
        }

    def _page(self, votes: Votes, rater: str) -> dict[str, Any]:
        """What the page shows: rater, order, pairs, step, steps, undo, done, note and, unless done, criterion,
        question, profile, left and right."""
        showings = self._showings(votes, rater)
        position = self._position(votes, rater)
        pair, question = self._asked(showings, position)
        state = {
            "rater": rater,
            "order": pair,
            "pairs": len(showings),
            "step": position % len(self.questions),
            "steps": len(self.questions),
            "undo": bool(votes.given(rater)),
            "done": question is None,
            "note": "",
        }
        if question is None:
            return state
        row = self._sides(showings[pair])
        profile = {"summary": row["summary"], "attributes": row["attributes"]} if question.profile else None
        return state | {
            "criterion": question.criterion,
            "question": question.question,
            "profile": profile,
            LEFT: _utterances(row["left_turns"]),
            RIGHT: _utterances(row["right_turns"]),
        }


def _check_choice(choice: object) -> None:
    if choice not in CHOICES:
        raise CrsError(f"{str(choice)[:100]!r} is not a choice; it must be one of {', '.join(CHOICES)}")


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not 0 < len(key) <= 100:
        raise CrsError(f"{str(key)[:100]!r} is not the key of an answer; send a text of 1 to 100 characters")


def _utterances(turns: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    return [{"role": turn["role"], "pieces": pieces(turn["text"])} for turn in turns]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def open_study(paths: Sequence[Path], n_pairs: int, seed: int, folder: Path, redial: Path | None = None) -> Study:
    """The study in the only path if that is a study's folder, else the study of these runs below `folder`, which is
    created where it does not exist.

    `redial`: ReDial's zip or folder, for pairs with a human dialogue on one side. Raises `CrsError` as `find_runs`, and
    when there are too few dialogues.
    """
    if len(paths) == 1 and (paths[0] / "study.json").exists():
        return Study(paths[0])
    return Study.of(find_runs(paths), n_pairs, seed, read_questions(), folder, redial)
