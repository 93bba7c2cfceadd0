"""Simulations by engines, for tests: each speaks through a `LocalAgent`."""

from collections.abc import Sequence

from crslib.agents.local import LocalAgent
from crslib.config import SimulationParameters
from crslib.engines.base import Engine
from crslib.files import Progress, no_progress
from crslib.journal import Journal
from crslib.simulation import loop
from crslib.simulation.dialogues import Dialogues
from crslib.simulation.opening import ROLES, local_agent
from crslib.simulation.population import Population


def agents(population: Population, engines: Sequence[Engine], parameters: SimulationParameters) -> list[LocalAgent]:
    """The user's and the recommender's agent."""
    told = parameters.model_copy(update={"user_prompt": "", "recommender_prompt": ""})
    titles = population.catalog_titles(engines[-1], told)
    return [local_agent(engine, role, population, told, titles) for role, engine in zip(ROLES, engines, strict=True)]


def simulate(
    population: Population,
    user: Engine,
    recommender: Engine,
    parameters: SimulationParameters,
    journal: Journal,
    progress: Progress = no_progress,
) -> Dialogues:
    """As `loop.simulate`."""
    return loop.simulate(
        population, *agents(population, (user, recommender), parameters), parameters, journal, progress
    )
