"""A person talks with one of the two simulators, and the dialogue becomes a run's tables like any other.

As the user a person talks with the recommender and is nobody's profile: they say what they like. As the recommender
they talk with the simulated user of a profile, which they are shown afterwards.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from crslib import schemas
from crslib.config import RunParameters, resolve
from crslib.data import tables
from crslib.data.catalog import Catalog
from crslib.dialogue import utterances, views
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.engines import llama
from crslib.engines.base import Engine, Sampling
from crslib.engines.loading import open_engine
from crslib.engines.person import Overheard, Person
from crslib.errors import CrsError
from crslib.identity import derive_seed
from crslib.simulation.loop import simulate
from crslib.simulation.population import Population
from crslib.store import Run
from crslib.users import profiles

YOU = "you"  # the profile of a person who is the user
_ENDS = {
    "user_left": "The user left.",
    "recommender_left": "The recommender left.",
    "max_turns": "The dialogue has reached its longest (parameter max_turns).",
    "repetition": "It ends here because one of the two said the same for the third time.",
    "context_full": "It ends here because no more fits into the model's context (parameter n_ctx).",
}


@dataclass(frozen=True)
class Ending:
    """Why a dialogue ended, in a sentence, and what the other party privately held: nothing, if it was the recommender.

    `notes`: what it remembered or thought before each of its replies, one line for each that had any.
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
    tell: Callable[[str, str], None],
    profile_id: str = "",
    begin: Callable[[], None] = lambda: None,
) -> Ending:
    """One dialogue in which a person speaks for `role`.

    `ask` gives the person's next utterance (None: they go), `tell` gets the role and text of everything said, the
    person's words too; `begin` is called when the models are ready. Titles that the person names without brackets are
    linked as in `Catalog.link`; in what `tell` gets all of them stand in `[[…]]`. Without `profile_id` the seed chooses
    who the simulated user is. All tables of a run are written into `run`, the hidden items too, so that `03_evaluate`
    can read it. Raises `CrsError` for a profile that is not there, or a file that is unfit.
    """
    items, ratings = tables.load(resolve(parameters.data))
    built = profiles.build(items, ratings, parameters)
    chosen = _nobody() if role == USER else _chosen(built.profiles, profile_id, parameters.seed)
    population = Population(chosen, built.items, built.training)
    here = {"n_profiles": 1, "resample": 1, "condition": f"a person as {role}", "dialogues_per_profile": 1}
    here |= {"memory": False} if role == USER else {"grounding": "off"}
    if parameters.weights == "fastest":
        here["weights"] = "Q8_0"  # nobody should wait minutes for a measurement to save seconds
    parameters = parameters.model_copy(update=here)
    holdouts = built.holdouts.join(chosen, on="profile_id", how="semi")
    replace(built, profiles=chosen, holdouts=holdouts).write(run)
    other = RECOMMENDER if role == USER else USER
    models: dict[Any, llama.Model] = {}
    sampling = Sampling(parameters.temperature, parameters.top_p, parameters.min_p, parameters.max_tokens)
    model, adapter = getattr(parameters, f"{other}_model"), getattr(parameters, f"{other}_adapter")
    engine = open_engine(parameters.model_copy(update={"width": 1}), model, adapter, sampling, models)
    try:
        begin()
        reason, turns = _talk(role, engine, population, parameters, run, ask, tell)
    finally:
        engine.close()
        for opened in models.values():
            opened.close()
    lines = [
        views.note_line([views.Note(n["title"], n["seen"], n["liked"]) for n in noted]) for noted in turns["notes"]
    ]
    return Ending(_ENDS[reason], *chosen.select("summary", "attributes").row(0), [line for line in lines if line])


def new_run(reports: Path) -> Run:
    """Where one dialogue of a person is kept: a folder below `reports`/chats, named by the time and not made yet."""
    return Run(reports / "chats" / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S-%f}")


def _talk(
    role: str,
    engine: Engine,
    population: Population,
    parameters: RunParameters,
    run: Run,
    ask: Callable[[], str | None],
    tell: Callable[[str, str], None],
) -> tuple[str, pl.DataFrame]:
    """The dialogue into the run's tables; its stop reason and its `turns`."""
    other = RECOMMENDER if role == USER else USER

    def typed() -> str | None:
        text = ask()
        if text is None:
            return None
        text = bracketed(text, population.catalog)
        tell(role, utterances.clean(text))
        return text

    person, model = Person(engine, typed), Overheard(engine, lambda text: tell(other, utterances.clean(text)))
    user, recommender = (person, model) if role == USER else (model, person)
    run.update(run_id=run.path.name, parameters=parameters.model_dump())
    with run.journal() as journal:
        talk = simulate(population, user, recommender, parameters, journal)
    talk.write(run)
    run.update(status="success")
    return talk.dialogues["stop_reason"].item(), talk.turns


def bracketed(text: str, catalog: Catalog) -> str:
    """What a person typed with its titles in `[[…]]`, as the catalogue writes them; brackets of their own stay."""
    made, end = "", 0
    for mention in catalog.spot(text):
        made += f"{text[end : mention['start']]}[[{catalog.name(mention['item_id'])}]]"
        end = mention["end"]
    return made + text[end:]


def _nobody() -> pl.DataFrame:
    row: Mapping[str, Any] = {
        **{name: [] if isinstance(kind, pl.List) else None for name, kind in schemas.TABLES["profiles"].items()},
        **{"profile_id": YOU, "user_id": YOU, "summary": "", "attributes": "", "target_mode": "heldout"},
        **{"k_anonymity": 0, "n_visible": 0},
    }
    return pl.DataFrame([row], schema=dict(schemas.TABLES["profiles"]))


def _chosen(people: pl.DataFrame, profile_id: str, seed: int) -> pl.DataFrame:
    names = people["profile_id"].to_list()
    if profile_id and profile_id not in names:
        raise CrsError(f"there is no profile {profile_id!r} among {len(names)}; known are {', '.join(names[:5])}, …")
    return people.filter(profile_id=profile_id or names[derive_seed(seed, "chat") % len(names)])
