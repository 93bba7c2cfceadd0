"""The conditions that the project argues against: a model knows the target items. Named as such, everywhere.

`user-target`: the user of a simulation knows the titles of its targets; all else is the same loop. `scripted`: one
model writes the whole dialogue, and knows targets, summary and attributes. Words are drawn and guarded as in a
simulation. With `grounding` titles and names in the recommender's turns are restricted as in a simulation too; those
of the user's turns are free in both. Both baselines give the tables of a simulation; the audit of their prompts counts
the targets in them. The loop itself has no way to a target: an `InformedPopulation` does.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crslib.agents.base import Agent, Ask, Reply
from crslib.agents.format import Format, Trained
from crslib.agents.local import LocalAgent
from crslib.agents.server import open_server
from crslib.config import BaselineParameters, SimulationParameters, kind_of, resolve
from crslib.data.catalog import Catalog, item_names
from crslib.data.source import UNKNOWN, Source
from crslib.dialogue.domain import Domain, of_run
from crslib.dialogue.prompts import Prompt, without_thoughts
from crslib.dialogue.scripts import SCRIPTED, ScriptView, TargetKnowledge, TargetUserView, last_turn, parse_script
from crslib.dialogue.styles import Style
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import Message, Turn, UserView, View
from crslib.engines.base import Choice, Constraint, Engine, Scope
from crslib.engines.loading import open_engine, sampling
from crslib.errors import CrsError
from crslib.files import Progress, no_progress
from crslib.identity import derive_seed, digest
from crslib.journal import Journal
from crslib.simulation.dialogues import Dialogues, keep_wanted, wanted, words_key
from crslib.simulation.loop import simulate
from crslib.simulation.opening import limits_of, open_agents, untried
from crslib.simulation.population import Population
from crslib.store import Run

N_TARGETS = 3  # titles that a model knows at most; in ReDial's training dialogues the median is 3, the mean 2.8
_SCRIPT = 512  # tokens of a script at most; 99 % of those of ReDial's training dialogues have no more
_N_CTX = 1024


class InformedPopulation(Population):
    """A population whose users know the titles of their targets."""

    def __init__(
        self,
        profiles: pl.DataFrame,
        items: pl.DataFrame,
        training: pl.DataFrame,
        domain: Domain,
        holdouts: pl.DataFrame,
        source: Source = UNKNOWN,
    ) -> None:
        """`holdouts`: the hidden ratings of the same run, from which the targets are. `source`: as of `Population`."""
        super().__init__(profiles, items, training, domain, source=source)
        self.titles = targets(holdouts, items)

    @classmethod
    def read(cls, run: Run) -> "InformedPopulation":
        """The population whose tables lie in the folder of `run`. Raises `CrsError` when one is missing or damaged."""
        profiles, items, training, holdouts = (run.read(name) for name in ("profiles", "items", "ratings", "holdouts"))
        return cls(profiles, items, training, of_run(run), holdouts, Source.read(run.path))

    def knowledge(self, profile: Mapping[str, Any], style: Style | None = None) -> TargetKnowledge:
        """What a model knows of the person of a row of table `profiles`, who writes in `style`."""
        titles = self.titles.get(profile["profile_id"], ())
        return TargetKnowledge(**self.known(profile), style=style, titles=titles)

    def view(self, profile: Mapping[str, Any], style: Style | None = None) -> UserView:
        """A user's view that begins with its targets."""
        return TargetUserView(self.knowledge(profile, style))

    def person_sha256(self, profile: Mapping[str, Any]) -> str:
        """A hash of what a row of table `profiles` says of its person, and of the person's targets."""
        return digest([super().person_sha256(profile), self.knowledge(profile).titles], "person")


def targets(holdouts: pl.DataFrame, items: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """The names (`Title (Year)`) of each profile's targets: its hidden liked items, the best rated first, then the less
    known. `holdouts`, `items`: the tables of a run."""
    names = item_names(items)
    liked = holdouts.filter("liked").join(items.select("item_id", "n_ratings"), on="item_id")
    liked = liked.sort("profile_id", "rating", "n_ratings", "item_id", descending=[False, True, False, False])
    return {
        str(profile): tuple(names[item] for item in part["item_id"][:N_TARGETS])
        for (profile,), part in liked.group_by("profile_id", maintain_order=True)
    }


def simulate_baseline(
    population: InformedPopulation,
    parameters: BaselineParameters,
    journal: Journal,
    progress: Progress = no_progress,
    folder: Path | None = None,
) -> Dialogues:
    """The dialogues of the condition `parameters.baseline`, with the agents that its parameters name.

    Parameters of notes and of the recommender do not change a script. `folder`: as in `open_agents`. Raises `CrsError`
    as `simulate` does.
    """
    if parameters.baseline == SCRIPTED:
        with open_writer(population, parameters, folder) as writer:
            return write_scripts(population, writer, parameters, journal, progress)
    with open_agents(parameters, population, folder) as (user, recommender):
        return simulate(population, user, recommender, parameters, journal, progress)


@contextmanager
def open_writer(
    population: Population, parameters: SimulationParameters, folder: Path | None = None
) -> Iterator[Agent]:
    """The agent that writes whole dialogues: `user_model` with `user_adapter`, and room for a script.

    Raises `CrsError` for what is no model, and as `open_agents` does.
    """
    name = parameters.model(USER)
    guard: Scope = "turn of a script" if parameters.guard else "off"
    drawing = replace(sampling(parameters), max_tokens=_SCRIPT, guard=guard)
    if parameters.is_local(USER):
        roomy = parameters.model_copy(update={"n_ctx": max(parameters.n_ctx, _N_CTX)})
        with open_engine(roomy, name, parameters.adapter(USER), drawing) as engine:
            yield script_writer(engine, population, parameters)
    elif kind_of(name) == "openai":
        long = parameters.model_copy(update={"max_tokens": _SCRIPT, "resample": 1})
        answers = folder and folder / "script.answers.jsonl"
        form = script_format(population, parameters)
        with closing(open_server(name, long, limits_of(parameters), form=form, answers=answers)) as agent:
            yield agent
    else:
        raise CrsError(f"{name!r} writes no scripts; give a GGUF or openai:MODEL@URL as user_model")


def script_writer(engine: Engine, population: Population, parameters: SimulationParameters) -> LocalAgent:
    """The agent that writes whole dialogues by `engine`; `parameters` say what its recommender may name."""
    of_line = population.of_recommender(engine, parameters)
    constraint = None if of_line is None else lambda view: ScriptConstraint(of_line, population.catalog, engine)
    nobody = ScriptView(TargetKnowledge(population.domain, "", ""))
    agent = LocalAgent(engine, script_format(population, parameters), nobody, constraint=constraint)
    agent.untried = untried(USER, population, parameters)
    return agent


def script_format(population: Population, parameters: SimulationParameters) -> Format:
    """How a model that writes whole dialogues is spoken to."""
    path = parameters.prompt(USER)
    return ToldScript(Prompt.read(resolve(path)), population.catalog.bracketed) if path else Script()


class Script(Trained):
    """The format of a model that was trained to write whole dialogues, line by line."""

    def read(self, raw: str) -> tuple[str, bool]:
        """As `Format.read`."""
        return raw, False


class ToldScript(Script):
    """The format of a model that is told to write whole dialogues."""

    verbatim = False

    def __init__(self, prompt: Prompt, link: Callable[[str], str]) -> None:
        self.identity = {"name": "prompted script", "prompt_sha256": prompt.identity}
        self._prompt, self._link = prompt, link

    def messages(self, view: View) -> Sequence[Message]:
        return self._prompt.messages(view)

    def read(self, raw: str) -> tuple[str, bool]:
        """With titles in brackets; a line stays a line."""
        return "\n".join(map(self._link, without_thoughts(raw).split("\n"))), False


def write_scripts(
    population: InformedPopulation,
    writer: Agent,
    parameters: SimulationParameters,
    journal: Journal,
    progress: Progress = no_progress,
) -> Dialogues:
    """A scripted dialogue for every profile.

    As in `simulate`, a dialogue depends on (seed, profile, condition, agent's identity) only, is in `journal` when it
    is written, and a row of `failures` when it cannot be. A script without utterances is a dialogue without turns. The
    writer's prompt counts as the prompt of both parties: it holds what either must not see. Raises `CrsError` as
    `simulate` does.
    """
    key = words_key(parameters, population, [writer])
    profiles = wanted(population.profiles, parameters)
    people = {dialogue_id: population.person_sha256(profile) for dialogue_id, profile in profiles.items()}
    keep_wanted(journal, key, people)
    missing = sorted(profiles.keys() - journal.dialogue_ids)
    for dialogue_id in missing:
        view = ScriptView(population.knowledge(profiles[dialogue_id]))
        writer.ask(Ask(dialogue_id, view, derive_seed(parameters.seed, dialogue_id, SCRIPTED)))
    failures: list[dict[str, Any]] = []
    progress(len(profiles) - len(missing), len(profiles))
    while writer.pending:
        for dialogue_id, reply in writer.step(wait=True):
            writer.release(dialogue_id)
            profile_id = profiles[dialogue_id]["profile_id"]
            if reply.finish == "failed":
                lost = {"dialogue_id": dialogue_id, "profile_id": profile_id, "turn": 0, "role": SCRIPTED}
                failures.append({**lost, "error": reply.error})
            else:
                record = _record(profile_id, dialogue_id, reply, population.catalog, parameters.seed)
                journal.append({"key": key, "person": people[dialogue_id], **record})
            progress(len(journal.records) + len(failures), len(profiles))
    return Dialogues.of(journal, parameters, {USER: writer, RECOMMENDER: writer}, failures)


class ScriptConstraint:
    """The constraint of a script (`engines.base.Constraint`): the recommender names titles as in a simulation.

    In a line of the recommender's, `of_line` decides by the turns before it; elsewhere all is free.
    """

    def __init__(self, of_line: Callable[[Sequence[Turn]], Constraint], catalog: Catalog, writer: Engine) -> None:
        self._of_line, self._catalog, self._writer = of_line, catalog, writer
        self._lines: dict[int, Constraint] = {}  # of the recommender's lines, by where they begin
        self.never = np.zeros(0, np.int32)

    def allowed(self, ids: Sequence[int]) -> Choice | None:
        """As `engines.base.Constraint.allowed`."""
        constraint, line = self._at(ids)
        choice = constraint.allowed(line) if constraint else None
        self.never = constraint.never if constraint else np.zeros(0, np.int32)
        return choice

    def forced(self, ids: Sequence[int]) -> list[int]:
        """As `engines.base.Constraint.forced`."""
        constraint, line = self._at(ids)
        return constraint.forced(line) if constraint else []

    def _at(self, ids: Sequence[int]) -> tuple[Constraint | None, Sequence[int]]:
        """The constraint of the line that `ids` stop in, None where all is free, and the tokens of that line."""
        if last_turn(self._writer.decode(ids))[0] != RECOMMENDER:
            return None, ids
        start = next((n for n in range(len(ids), 0, -1) if b"\n" in self._writer.pieces[ids[n - 1]]), 0)
        if start not in self._lines:
            self._lines[start] = self._of_line(_turns(self._writer.decode(ids[:start]), self._catalog))
        return self._lines[start], ids[start:]


def _turns(script: str, catalog: Catalog) -> list[dict[str, Any]]:
    """The turns of a script: `role`, `text` and linked `items`."""
    return [{"role": role, "text": text, "items": catalog.link(text)} for role, text in parse_script(script)]


def _record(profile_id: str, dialogue_id: str, reply: Reply, catalog: Catalog, seed: int) -> dict[str, Any]:
    script = _turns(reply.text, catalog)
    cut = reply.finish != "end"
    turns = [
        {
            "dialogue_id": dialogue_id,
            "turn": number,
            **turn,
            "notes": [],
            "n_tokens": None,
            "mean_logprob": None,
            "finish": reply.finish if cut and number == len(script) - 1 else "end",
        }
        for number, turn in enumerate(script)
    ]
    fed = {"dialogue_id": dialogue_id, "turn": 0, "text": reply.sent.text, "n_tokens": reply.sent.n_tokens}
    return {
        "dialogue": {
            "dialogue_id": dialogue_id,
            "profile_id": profile_id,
            "opener": script[0]["role"] if script else USER,
            "seed": seed,
            "stop_reason": "script_cut" if cut else "script_ended",
            "n_turns": len(turns),
            "user_style": None,
            "recommender_style": None,
        },
        "turns": turns,
        "prompts": [{**fed, "role": role} for role in (USER, RECOMMENDER)],
        "usage": {USER: [reply.tokens_in, reply.tokens_out], RECOMMENDER: [0, 0]},
    }
