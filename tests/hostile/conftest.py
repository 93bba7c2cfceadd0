"""The uninterrupted run that all others must equal, and the table of faults that `make hostile` prints."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.hostile import tiny_runs
from tests.hostile.tiny_runs import STAGES, Place

_ROWS: list[tuple[str, int, str]] = []


@pytest.fixture
def outcome() -> Callable[[str, int, str], None]:
    """Adds a row to the table: the fault, how often it was tried, and what came of it."""
    return lambda fault, attempts, what: _ROWS.append((fault, attempts, what))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table."""
    if _ROWS:
        width = max(len(fault) for fault, _, _ in _ROWS)
        terminalreporter.section("faults")
        terminalreporter.write_line(f"{'fault':<{width}}  attempts  outcome")
        for fault, attempts, what in _ROWS:
            terminalreporter.write_line(f"{fault:<{width}}  {attempts:>8}  {what}")


@dataclass(frozen=True)
class Whole:
    """The uninterrupted run. `cpu`: seconds of CPU until the first stage, and of each stage."""

    place: Place
    tables: dict[str, bytes]
    dialogues: list[str]
    cpu: dict[str, float] = field(default_factory=dict)

    def equals(self, place: Place) -> bool:
        """Whether a finished run elsewhere is the same: all tables, no dialogue lost or doubled, nothing left."""
        run = place.run
        assert place.info["status"] == "success"
        assert list(place.info["stages"]) == list(STAGES)
        assert tiny_runs.dialogues(run) == self.dialogues
        assert {name for name, content in tiny_runs.tables(run).items() if content != self.tables.get(name)} == set()
        assert tiny_runs.tables(run).keys() == self.tables.keys()
        assert place.left() == []
        return True


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("h")
    place = make_place(tiny_runs.small_data(folder / "data"), folder / "w")
    attempt = place.start()
    marks: dict[str, float] = {}

    def note() -> bool:
        done = place.info.get("stages", {})
        running = next((name for name in STAGES if name not in done), "") if place.info else "plan"
        marks[running] = attempt.cpu()
        return False

    attempt.wait_until(note)
    status, errors = attempt.end()
    assert status == 0, errors
    ends = [marks.get(name, 0.0) for name in ("plan", *STAGES)]
    cpu = dict(zip(("plan", *STAGES), (b - a for a, b in zip([0.0, *ends], ends, strict=False)), strict=True))
    return Whole(place, tiny_runs.tables(place.run), tiny_runs.dialogues(place.run), cpu)


def make_place(data: Path, folder: Path) -> Place:
    """An empty place in a new `folder`."""
    (folder / "t").mkdir(parents=True)
    return Place(data, folder / "r", folder / "t")


@pytest.fixture
def new_place(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Place]]:
    """Makes empty places for runs that must equal `whole`; they are removed afterwards."""
    made: list[Path] = []

    def make() -> Place:
        made.append(tmp_path_factory.mktemp("p"))
        return make_place(whole.place.data, made[-1] / "p")

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)
