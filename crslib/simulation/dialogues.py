"""What a simulation gives: its tables, and the key under which finished dialogues may be used again."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import polars as pl

from crslib import schemas
from crslib.agents.base import Agent
from crslib.config import SimulationParameters, resolve
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.engines import llama, weights
from crslib.engines.server import usage
from crslib.errors import CrsError
from crslib.identity import digest, file_sha256, sources_sha256
from crslib.journal import Journal
from crslib.simulation.population import Population
from crslib.store import Run

# Whose sources decide what is said. Parameters, tables and agents are part of the key by their values; metrics,
# reports and notebooks change no word (tests/simulation/test_dialogues.py).
STYLES = "data/human/styles.parquet"  # as often as people write so
DECIDE_THE_WORDS = (
    "identity.py",
    "yaml_files.py",
    "agents",
    "dialogue",
    *("data/catalog.py", "data/histories.py", "data/source.py", "data/spotting.py", "data/titles.py"),
    "engines",
    "users",
    "recommender",
    "simulation",
)
_DECIDE_NO_WORDS = ("condition", "dialogues_per_profile")  # parameters of a simulation


@dataclass(frozen=True)
class Dialogues:
    """Tables `dialogues`, `turns`, `prompts` and `failures` of `schemas.TABLES`, sorted by dialogue and turn, and what
    `run.json` says of them: per role of the `agents`, and the tokens that their servers counted (`usage`), and whether
    the recommender's view had `facts`."""

    dialogues: pl.DataFrame
    turns: pl.DataFrame
    prompts: pl.DataFrame
    failures: pl.DataFrame
    agents: Mapping[str, Any]
    usage: Mapping[str, Mapping[str, float]]
    facts: bool

    @classmethod
    def of(
        cls,
        journal: Journal,
        parameters: SimulationParameters,
        agents: Mapping[str, Agent],
        failures: Sequence[Mapping[str, Any]] = (),
        whole: bool = True,
    ) -> Self:
        """The tables of a journal's records and of the dialogues that failed.

        Raises `CrsError` when there are failures and nothing else in a `whole` run; of a part all may fail.
        """
        if whole and failures and not journal.records:
            raise CrsError(f"no dialogue could be simulated: {failures[0]['error']}")
        records = sorted(journal.records, key=lambda record: record["dialogue"]["dialogue_id"])
        names = {"run_id": journal.run_id, "condition": parameters.condition}
        dialogues = [{**record["dialogue"], **names} for record in records]
        turns, prompts = ([row for record in records for row in record[name]] for name in ("turns", "prompts"))
        failures = sorted(failures, key=lambda row: row["dialogue_id"])
        return cls(
            _table("dialogues", dialogues),
            _table("turns", turns),
            _table("prompts", prompts),
            _table("failures", failures),
            {role: _described(agent) for role, agent in agents.items()},
            {role: _usage(records, role, parameters) for role in agents},
            shows_facts(parameters),
        )

    def write(self, run: Run) -> None:
        """Writes the tables into the folder of `run`, and the rest into its `run.json`.

        Raises `CrsError` when nobody says a word in any dialogue, unless a person takes part, who may leave at once.
        """
        person = any(about.get("agent") == "person" for about in self.agents.values())
        if self.turns.is_empty() and not self.dialogues.is_empty() and not person:
            reasons = ", ".join(
                f"{reason}: {n}" for reason, n in sorted(Counter(self.dialogues["stop_reason"]).items())
            )
            raise CrsError(
                f"nobody says a word in any of {len(self.dialogues)} dialogues ({reasons}); give other models, "
                "adapters or prompts, or another seed"
            )
        for name in ("dialogues", "turns", "prompts", "failures"):
            run.write(name, getattr(self, name))
        run.update(agents=self.agents, usage=self.usage, facts=self.facts, n_failed=len(self.failures))


def _described(agent: Agent) -> dict[str, Any]:
    changes = {"changes": list(agent.changes)} if agent.changes else {}
    untried = {"untried": said} if (said := getattr(agent, "untried", "")) else {}
    return {**agent.identity, "reproducible": agent.reproducible, **changes, **untried}


def _usage(records: Sequence[Mapping[str, Any]], role: str, parameters: SimulationParameters) -> dict[str, float]:
    """Tokens that a role's server read and wrote, and their price; empty for an agent that counts none."""
    counted = [record["usage"][role] for record in records]
    tokens_in, tokens_out = (sum(one[part] for one in counted) for part in (0, 1))
    return usage(tokens_in, tokens_out, parameters.price_in, parameters.price_out) if tokens_in + tokens_out else {}


def _table(name: str, rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=dict(schemas.TABLES[name]))


def wanted(profiles: pl.DataFrame, parameters: SimulationParameters) -> dict[str, dict[str, Any]]:
    """Dialogue id → profile (row of table `profiles`), sorted by id: `dialogues_per_profile` of each."""
    ids = {
        f"{profile['profile_id']}.{copy}": profile
        for profile in profiles.iter_rows(named=True)
        for copy in range(parameters.dialogues_per_profile)
    }
    return dict(sorted(ids.items()))


def keep_wanted(journal: Journal, key: str, people: Mapping[str, str]) -> None:
    """Keeps of a journal the whole dialogues under this key, of these people, each once.

    `people`: dialogue id → `person_sha256` of its profile. What else the journal holds is dropped with a warning, as in
    `Journal.keep_only`.
    """
    seen: set[str] = set()

    def is_new(record: Mapping[str, Any]) -> bool:
        if not _is_dialogue(record) or record["person"] != people.get(record["dialogue"]["dialogue_id"]):
            return False
        dialogue_id = record["dialogue"]["dialogue_id"]
        is_first = dialogue_id not in seen
        seen.add(dialogue_id)
        return is_first

    journal.keep_only(key, is_new)


def _is_dialogue(record: Mapping[str, Any]) -> bool:
    """Whether a record has every field of a dialogue, so that tables can be made of it."""
    try:
        tables = {"dialogues": [record["dialogue"]], "turns": record["turns"], "prompts": record["prompts"]}
        for name, rows in tables.items():
            _table(name, rows)
            if any(schemas.TABLES[name].keys() - row.keys() - {"run_id", "condition"} for row in rows):
                return False
        if not isinstance(record["person"], str):
            return False
        return all(list(map(type, record["usage"][role])) == [int, int] for role in (USER, RECOMMENDER))
    except (KeyError, TypeError, AttributeError, ValueError, pl.exceptions.PolarsError):
        return False


def words_key(parameters: SimulationParameters, population: Population, agents: Sequence[Agent]) -> str:
    """What stands for all that decides the words of a dialogue but for its person, and for nothing else.

    Parameters but for the condition's name and how many dialogues each person has, what all people of the population
    share, the agents' identities, the styles, the discriminators, and the sources of `DECIDE_THE_WORDS`.
    """
    given = {name: value for name, value in parameters.identity().items() if name not in _DECIDE_NO_WORDS}
    identities = [dict(agent.identity) for agent in agents]
    return digest([given, population.sha256, identities, *files_of_words(parameters).values()], "words")


def style_files(parameters: SimulationParameters) -> dict[str, Path | None]:
    """By role, the table from which it is drawn how each party writes; None: nothing says how.

    Raises `CrsError` for an adapter that cannot be read.
    """
    return {role: _style_file(parameters, role) for role in (USER, RECOMMENDER)}


def _style_file(parameters: SimulationParameters, role: str) -> Path | None:
    if parameters.styles != "auto":
        return resolve(parameters.styles) if parameters.styles else None
    return resolve(STYLES) if "style" in _parts(parameters, role) else None


def shows_facts(parameters: SimulationParameters) -> bool:
    """Whether the recommender's view gets catalogue facts of the items named.

    Raises `CrsError` for an adapter that cannot be read.
    """
    return parameters.facts == "always" or (parameters.facts == "auto" and "facts" in _parts(parameters, RECOMMENDER))


def _parts(parameters: SimulationParameters, role: str) -> Collection[str]:
    """The optional parts of views with which the adapter of `role` was trained; none where it has no adapter."""
    adapter = llama.adapter_path(parameters.adapter(role)) if parameters.is_local(role) else None
    return () if adapter is None else weights.parts_of(adapter)


def files_of_words(parameters: SimulationParameters) -> dict[str, Any]:
    """The hashes of the files that decide the words beside agents and tables: `styles` (by role; None for none),
    `sources` of crslib and the `discriminators`."""
    weighing = resolve(parameters.discriminators) if parameters.discriminators else None
    return {
        "styles": {role: path and file_sha256(path) for role, path in style_files(parameters).items()},
        "sources": sources_sha256(DECIDE_THE_WORDS),
        "discriminators": [file_sha256(path) for path in sorted(weighing.glob("*.json"))] if weighing else [],
    }
