"""Dialogues with a recommender or a user of one's own, in three lines: `crslib.talk`.

import crslib
talked = crslib.talk(recommender=lambda turns: "Have you seen The Matrix (1999)?")
print(talked.turns)
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from crslib.agents.base import Agent
from crslib.agents.callable import FunctionAgent
from crslib.config import RunParameters
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError
from crslib.files import Progress, no_progress
from crslib.simulation.dialogues import Dialogues
from crslib.simulation.loop import simulate
from crslib.simulation.opening import open_agents
from crslib.simulation.population import Population
from crslib.store import Run
from crslib.users import profiles

Speaker = Callable[..., Any] | str | None


def talk(
    recommender: Speaker = None,
    user: Speaker = None,
    n_profiles: int = 8,
    *,
    to: str | Path | None = None,
    progress: Progress = no_progress,
    **parameters: Any,
) -> Dialogues:
    """Lets a recommender talk with simulated users of `n_profiles` people, and returns the tables of their dialogues.

    `recommender`, `user`: a function (`agents.callable`; data/protocol/README.md says what it gets and may return), or
    a name as in the parameters `recommender_model` and `user_model`; None: the built-in one. `parameters`: others of
    `crs run`, such as `max_turns` and `seed`. `to`: folder for all tables of a run, in which a call that was stopped
    goes on; None: nothing is written. What fails is in table `failures`. Nothing is evaluated.

    Raises `CrsError` for an unknown or wrong parameter, for a party that cannot be opened, and when every dialogue
    fails.
    """
    given = {USER: user, RECOMMENDER: recommender}
    names = {role: speaker for role, speaker in given.items() if isinstance(speaker, str)}
    asked = RunParameters.parse(
        {"n_profiles": n_profiles, **parameters, **{f"{role}_model": name for role, name in names.items()}}
    ).located()
    if asked.baseline:
        raise CrsError(f"talk simulates no baseline ({asked.baseline!r}); use crs run -p baseline={asked.baseline}")
    built = profiles.of_data(asked)
    population = Population(**built.visible)
    with contextlib.ExitStack() as stack:
        folder = Path(to).expanduser() if to else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crs-")))
        run = Run(folder)
        functions = {role: speaker for role, speaker in given.items() if callable(speaker)}
        parties = stack.enter_context(_agents(functions, asked, population, folder))
        asked = asked.model_copy(
            update={f"{role}_model": f"python:{parties[role].identity['name']}" for role in functions}
        )
        if to:
            run.update(run_id=folder.name, parameters=asked.model_dump(), status="started")
            built.write(run)
        with run.journal() as journal:
            talked = simulate(population, parties[USER], parties[RECOMMENDER], asked, journal, progress)
        if to:
            talked.write(run)
            run.update(status="success")
    return talked


@contextlib.contextmanager
def _agents(
    functions: dict[str, Callable[..., Any]], parameters: RunParameters, population: Population, folder: Path
) -> Iterator[dict[str, Agent]]:
    """The agents of both roles: those of functions, and those that the parameters name."""
    catalog = population.catalog
    own: dict[str, Agent] = {
        role: FunctionAgent(function, role, catalog, catalog.bracketed) for role, function in functions.items()
    }
    named = [role for role in (USER, RECOMMENDER) if role not in own]
    with open_agents(parameters, population, folder, named) as opened:
        yield own | dict(zip(named, opened, strict=True))
