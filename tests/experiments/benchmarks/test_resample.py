"""`-p resample=N` reaches whoever draws, in every benchmark that takes parameters."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from crslib.agents.local import LocalAgent
from crslib.cli.bench import bench
from crslib.cli.main import main
from crslib.config import SimulationParameters
from crslib.errors import CrsError
from crslib.experiments.benchmarks import engine, notes, prompts, server, twins

WITH_PARAMETERS = {"bounds", "evaluate", "scale", "engine", "scaling", "notes", "twins", "server", "prompts"}


def test_no_other_benchmark_takes_parameters() -> None:
    commands = bench.commands
    taking = {name for name, one in commands.items() if any(option.name == "assignments" for option in one.params)}
    assert taking == WITH_PARAMETERS


def drawn(words: list[str], patch: pytest.MonkeyPatch, module: Any, name: str, of: Callable[..., int]) -> list[int]:
    """The draws that a command asks for where it calls `name`, which then ends it."""
    seen = []

    def stop(*given: Any, **more: Any) -> None:
        seen.append(of(*given))
        raise CrsError("seen")

    patch.setattr(module, name, stop)
    result = CliRunner().invoke(main, ["bench", *words, "-p", "resample=7"])
    assert result.stderr == "crs: seen\n"
    return seen


def by_parameters(parameters: SimulationParameters, *_: Any) -> int:
    return parameters.resample


def by_agents(_: Any, user: LocalAgent, recommender: LocalAgent, *__: Any) -> int:
    assert user.engine.times == recommender.engine.times  # type: ignore[attr-defined]
    return user.engine.times  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", [twins, prompts, server], ids=lambda module: module.__name__.rpartition(".")[2])
def test_benchmarks_of_whole_simulations(module: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module.__name__.rpartition(".")[2]
    few = {"server": ["--dialogues", "1"]}.get(name, ["--profiles", "2", "--to", str(tmp_path)])
    assert drawn([name, *few], monkeypatch, module, "open_agents", by_parameters) == [7]


def test_the_benchmarks_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """`engine` and `scaling` have one function that talks."""
    assert drawn(["scaling", "1"], monkeypatch, engine, "simulate", by_agents) == [7]


def test_the_benchmark_of_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes.redial, "read", lambda *given: [])
    monkeypatch.setattr(notes.preferences, "sample", lambda *given: [])
    monkeypatch.setattr(notes, "open_engines", lambda parameters: contextlib.nullcontext((None, None)))
    draws = drawn(["notes", "--path", "x"], monkeypatch, notes.preferences, "candidates", lambda _, __, n, *___: n)
    assert draws == [7]
