"""A person talks with one of the two simulators, and the dialogue becomes a run's tables like any other.

As the user, a person talks with the recommender without a profile: they say what they like themselves. As the
recommender, they talk with the simulated user of a profile, and see the profile afterwards.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from crslib import schemas
from crslib.agents.base import Agent
from crslib.agents.person import Observed, Person
from crslib.config import RunParameters
from crslib.dialogue import utterances, views
from crslib.dialogue.stop_reasons import stop_sentence
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError
from crslib.identity import derive_seed
from crslib.simulation.loop import simulate
from crslib.simulation.opening import open_agents
from crslib.simulation.population import Population
from crslib.store import Run
from crslib.users import profiles

YOU = "you"  # the profile of a person who is the user


@dataclass(frozen=True)
class Ending:
    """Why a dialogue ended, in a sentence, and what the simulated user privately knew; empty for a recommender.

    `notes`: its private notes before each of its replies, one line for each reply that had any.
    """

    why: str
    summary: str
    attributes: str
    notes: list[str]


def converse(
    role: str,
    parameters: RunParameters,
    run: Run,
    ask: Callable[[], str | None],
    show: Callable[[str, str], None],
    profile_id: str = "",
    begin: Callable[[], None] = lambda: None,
) -> Ending:
    """One dialogue in which a person speaks for `role`.

    `ask` gives the person's next utterance (None: they leave). `show` gets the role and text of every utterance, the
    person's too. `begin` is called when the models are ready. Titles that the person types without brackets are linked
    as in `Catalog.link`; `show` gets all of them in `[[…]]`. Without `profile_id` the seed chooses the simulated user.
    All tables of a run are written into `run`, the hidden items too, so that `03_evaluate` can read it. Raises
    `CrsError` for an unknown profile, or a file that cannot be used.
    """
    built = profiles.of_data(parameters)
    chosen = _nobody() if role == USER else _chosen(built.profiles, profile_id, parameters.seed)
    population = Population(**{**built.visible, "profiles": chosen})
    fixed = {"n_profiles": 1, "resample": 1, "condition": f"a person as {role}", "dialogues_per_profile": 1}
    fixed |= {"memory": False} if role == USER else {"grounding": "off"}
    parameters = parameters.model_copy(update=fixed)
    holdouts = built.holdouts.join(chosen, on="profile_id", how="semi")
    replace(built, profiles=chosen, holdouts=holdouts).write(run)
    other = RECOMMENDER if role == USER else USER
    with open_agents(parameters.model_copy(update={"width": 1}), population, roles=[other]) as (agent,):
        begin()
        reason, turns = _talk(role, agent, population, parameters, run, ask, show)
    lines = [views.note_line([views.Note.of(note) for note in notes], population.domain) for notes in turns["notes"]]
    summary, attributes = chosen.select("summary", "attributes").row(0)
    return Ending(stop_sentence(reason), summary, attributes, [line for line in lines if line])


def new_run(reports: Path) -> Run:
    """The run of one dialogue with a person: a folder below `reports`/chats, named by the time and not yet created."""
    return Run(reports / "chats" / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S-%f}")


def _talk(
    role: str,
    agent: Agent,
    population: Population,
    parameters: RunParameters,
    run: Run,
    ask: Callable[[], str | None],
    show: Callable[[str, str], None],
) -> tuple[str, pl.DataFrame]:
    """The dialogue into the run's tables; its stop reason and its `turns`."""
    other = RECOMMENDER if role == USER else USER

    def typed() -> str | None:
        text = ask()
        if text is None:
            return None
        text = population.catalog.bracketed(text)
        show(role, utterances.clean(text))
        return text

    person, model = Person(typed), Observed(agent, lambda text: show(other, text))
    user, recommender = (person, model) if role == USER else (model, person)
    run.update(run_id=run.path.name, parameters=parameters.model_dump())
    with run.journal() as journal:
        talk = simulate(population, user, recommender, parameters, journal)
    talk.write(run)
    run.update(status="success")
    return talk.dialogues["stop_reason"].item(), talk.turns


def _nobody() -> pl.DataFrame:
    """The profile of a person of whom nothing is known."""
    row: Mapping[str, Any] = {
        **{name: [] if isinstance(kind, pl.List) else None for name, kind in schemas.TABLES["profiles"].items()},
        **{"profile_id": YOU, "user_id": YOU, "summary": "", "attributes": "", "target_mode": "heldout"},
        **{"k_anonymity": 0, "n_visible": 0},
    }
    return pl.DataFrame([row], schema=dict(schemas.TABLES["profiles"]))


def _chosen(profiles: pl.DataFrame, profile_id: str, seed: int) -> pl.DataFrame:
    names = profiles["profile_id"].to_list()
    if profile_id and profile_id not in names:
        raise CrsError(f"there is no profile {profile_id!r} among {len(names)}; known are {', '.join(names[:5])}, …")
    return profiles.filter(profile_id=profile_id or names[derive_seed(seed, "chat") % len(names)])
