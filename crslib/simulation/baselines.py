"""The conditions that the project argues against, in which a model is told the target items. Named as such, everywhere.

`user-target`: the user of a simulation that knows the targets' titles; all else is the same loop. `scripted`: one model
writes the whole dialogue, told targets, summary and attributes. Both give the tables of a simulation, and the audit of
their prompts finds what it is there to find. The module stands apart from `simulate`, which has no way to a target.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from crslib.config import BaselineParameters, SimulationParameters
from crslib.data.catalog import Catalog
from crslib.dialogue import utterances
from crslib.dialogue.reactions import fits
from crslib.dialogue.scripts import SCRIPTED, TargetKnowledge, TargetUserView, parse_script, script_view
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import UserView
from crslib.engines import llama
from crslib.engines.base import Completion, Engine, Request, Sampling
from crslib.engines.loading import engine_record, open_engine, open_engines
from crslib.identity import derive_seed, sources_sha256
from crslib.recommender.grounding import open_grounding
from crslib.simulation.loop import BESIDE, simulate, tables, talk_key
from crslib.store import Journal, Progress, no_progress
from crslib.users.opinions import Opinions

Tables = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]

N_TARGETS = 3  # titles that a model is told at most; in ReDial's training dialogues the median is 3, the mean 2.8
_SCRIPT = 512  # tokens of a script at most; 99 % of those made of ReDial's training dialogues have no more
_N_CTX = 1024


def targets(holdouts: pl.DataFrame, items: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """The names (`Title (Year)`) of each profile's targets: its hidden liked items, the best rated first, then the less
    known. `holdouts`, `items`: the tables of a run."""
    names = {
        item: utterances.item_name(title, year) for item, title, year in items.select("item_id", "title", "year").rows()
    }
    liked = holdouts.filter("liked").join(items.select("item_id", "n_ratings"), on="item_id")
    liked = liked.sort("profile_id", "rating", "n_ratings", "item_id", descending=[False, True, False, False])
    return {
        str(profile): tuple(names[item] for item in part["item_id"][:N_TARGETS])
        for (profile,), part in liked.group_by("profile_id", maintain_order=True)
    }


def knowledge(profile: Mapping[str, Any], titles: Mapping[str, Sequence[str]]) -> TargetKnowledge:
    """What a model is told of a person (row of table `profiles`): `titles` as `targets` gives them."""
    return TargetKnowledge(profile["summary"], profile["attributes"], tuple(titles.get(profile["profile_id"], ())))


def user_view(titles: Mapping[str, Sequence[str]]) -> Callable[[Mapping[str, Any]], UserView]:
    """For `simulate`'s `view`: a user that knows its targets."""
    return lambda profile: TargetUserView(knowledge(profile, titles))


def make(
    profiles: pl.DataFrame,
    titles: Mapping[str, Sequence[str]],
    items: pl.DataFrame,
    training: pl.DataFrame,
    parameters: BaselineParameters,
    run_id: str,
    journal: Journal,
    progress: Progress = no_progress,
    behind: Mapping[str, Any] | None = None,
) -> tuple[Tables, dict[str, Any]]:
    """Dialogues of the condition `parameters.baseline`: tables `dialogues`, `turns` and `prompts`, and what `run.json`
    says of the engines.

    `titles`: what the model is told, by profile (`targets`). `items`, `training`: tables `items` and `ratings` of the
    run. A scripted dialogue is written freely: grounding, memory and the recommender are nothing to it. Raises
    `CrsError` as `simulate` does.
    """
    catalog = Catalog(items)
    if parameters.baseline == SCRIPTED:
        with open_writer(parameters) as writer:
            made = write_scripts(profiles, titles, catalog, writer, parameters, run_id, journal, progress, behind)
            return made, engine_record(writer, writer)
    opinions = Opinions(profiles, training, items)
    with open_engines(parameters) as (user, recommender):
        grounding = open_grounding(items, training, recommender, parameters)
        made = simulate(
            profiles, opinions, catalog, user, recommender, parameters, run_id, journal, grounding, progress, fits,
            user_view(titles), _behind(titles, behind),
        )  # fmt: skip
        return made, engine_record(user, recommender)


def _behind(titles: Mapping[str, Sequence[str]], behind: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a baseline's words depend on beside what a simulation's do: what is told, and this module."""
    told = {name: list(known) for name, known in titles.items()}
    return {**(behind or {}), "told": told, "by": sources_sha256([__name__], BESIDE)}


@contextmanager
def open_writer(parameters: SimulationParameters) -> Iterator[llama.LlamaEngine]:
    """The engine of a model that writes whole dialogues: `user_model` with `user_adapter`, and room for a script."""
    sampling = Sampling(parameters.temperature, parameters.top_p, parameters.min_p, _SCRIPT)
    roomy = parameters.model_copy(update={"n_ctx": max(parameters.n_ctx, _N_CTX)})
    models: dict[Path, llama.Model] = {}
    with ExitStack() as stack:
        stack.callback(lambda: [model.close() for model in models.values()])
        writer = open_engine(roomy, parameters.user_model, parameters.user_adapter, sampling, models)
        stack.callback(writer.close)
        yield writer


def write_scripts(
    profiles: pl.DataFrame,
    titles: Mapping[str, Sequence[str]],
    catalog: Catalog,
    writer: Engine,
    parameters: SimulationParameters,
    run_id: str,
    journal: Journal,
    progress: Progress = no_progress,
    behind: Mapping[str, Any] | None = None,
) -> Tables:
    """A scripted dialogue for every profile, as tables `dialogues`, `turns` and `prompts`, sorted.

    As in `simulate`, a dialogue depends on (seed, profile, condition, engine identity) only and is in `journal` when it
    is written. A script that says nothing is a dialogue without turns. Both parties' prompts are the writer's: it reads
    what either must not. Raises `CrsError` when the engine fails or the journal cannot be written.
    """
    key = talk_key(parameters, profiles, [writer], _behind(titles, behind))
    journal.keep(key)
    wanted = {
        f"{profile['profile_id']}.{copy}": profile
        for profile in profiles.iter_rows(named=True)
        for copy in range(parameters.dialogues_per_profile)
    }
    done = {record["dialogue"]["dialogue_id"] for record in journal.records}
    template = ChatTemplate(*writer.chat_template)
    prompts = {}
    for dialogue_id in sorted(wanted.keys() - done):
        seen = script_view(knowledge(wanted[dialogue_id], titles))
        prompts[dialogue_id] = tuple(template.encode(seen.messages, writer))
        writer.submit(Request(dialogue_id, prompts[dialogue_id], derive_seed(parameters.seed, dialogue_id, SCRIPTED)))
    progress(len(wanted) - len(prompts), len(wanted))
    while writer.pending:
        for dialogue_id, made in writer.step():
            writer.release(dialogue_id)
            record = _record(wanted[dialogue_id], dialogue_id, made, prompts[dialogue_id], writer, catalog, parameters)
            journal.append({"key": key, **record})
            progress(len(journal.records), len(wanted))
    return tables(journal.records, run_id, parameters.condition)


def _record(
    profile: Mapping[str, Any],
    dialogue_id: str,
    made: Completion,
    prompt: Sequence[int],
    writer: Engine,
    catalog: Catalog,
    parameters: SimulationParameters,
) -> dict[str, Any]:
    said = parse_script(writer.decode(made.ids))
    cut = made.finish != "end"
    turns = [
        {
            "dialogue_id": dialogue_id,
            "turn": number,
            "role": role,
            "text": text,
            "items": catalog.link(text),
            "notes": [],
            "n_tokens": len(writer.encode(text)),
            "mean_logprob": None,
            "finish": made.finish if cut and number == len(said) - 1 else "end",
        }
        for number, (role, text) in enumerate(said)
    ]
    fed = {"dialogue_id": dialogue_id, "turn": 0, "text": writer.decode(prompt), "n_tokens": len(prompt)}
    return {
        "dialogue": {
            "dialogue_id": dialogue_id,
            "profile_id": profile["profile_id"],
            "opener": said[0][0] if said else USER,
            "seed": parameters.seed,
            "stop_reason": "script_cut" if cut else "script_ended",
            "n_turns": len(turns),
        },
        "turns": turns,
        "prompts": [{**fed, "role": role} for role in (USER, RECOMMENDER)],
    }
