"""The journal of a study's votes, in memory: the file is read once, and again when another process has written to it.

So an answer costs as much in a study with thousands of votes as in a new one.
"""

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from crslib.journal import Check, Journal, journal


class Votes:
    """What `votes.jsonl` says. While the block of `open` runs it is up to date, and others wait to read or write.

    `numbers`: all who joined, in order of arrival, with their numbers, which votes repeat in case a line is damaged.
    `keys`: those of all records. `imported`: the records of votes that were given elsewhere.
    """

    def __init__(self, path: Path, valid: Check) -> None:
        """`valid`: whether a record is one of this study."""
        self._path, self._valid = path, valid
        self._journal: Journal | None = None
        self._thread, self._depth = threading.RLock(), 0  # who has it open, and in how many blocks
        self._index([])

    @contextlib.contextmanager
    def open(self) -> Iterator[Self]:
        """Locks the file and brings this up to date; within another block of the same thread, only yields. Raises
        `CrsError` as `journal.journal`."""
        with self._thread, contextlib.ExitStack() as stack:
            if not self._depth:
                opened = stack.enter_context(journal(self._path, valid=self._valid, last=self._journal))
                if opened.changed:
                    self._index(opened.records)
                self._journal = opened
            self._depth += 1
            try:
                yield self
            finally:
                self._depth -= 1

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """As `open`, and what is added in the block is on disk when it ends, all after one wait. Raises `CrsError` when
        it cannot be stored: then nothing of it is."""
        with self.open():
            assert self._journal is not None
            with self._journal.together():
                yield

    @property
    def records(self) -> Sequence[Mapping[str, Any]]:
        """All records, in order."""
        return self._journal.records if self._journal else ()

    def given(self, rater: str) -> Sequence[Mapping[str, Any]]:
        """The rater's votes that were not withdrawn, in order."""
        return self._given.get(rater, ())

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a record, which is on disk when this returns, or when `together` ends. Raises `CrsError` when it cannot
        be stored."""
        assert self._journal is not None, "votes are added while they are open"
        self._journal.append(record)
        self._take(record)

    def _index(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.numbers: dict[str, int] = {}
        self.keys: set[str] = set()
        self.imported: list[Mapping[str, Any]] = []
        self._given: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for record in records:
            self._take(record)

    def _take(self, record: Mapping[str, Any]) -> None:
        act, rater = record["act"], record["rater"]
        self.keys.add(record["key"])
        if act == "import":
            self.imported.append(record)
            return
        self.numbers.setdefault(rater, record.get("number", len(self.numbers)))
        if act == "vote":
            self._given[rater].append(record)
        elif act == "undo":
            self._given[rater] = [one for one in self._given[rater] if one["key"] != record["undone"]]
