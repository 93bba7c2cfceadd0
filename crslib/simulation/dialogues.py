"""What a simulation gives: three tables, and the key under which finished dialogues may be used again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import polars as pl

from crslib import schemas
from crslib.config import SimulationParameters, resolve
from crslib.engines.base import Engine
from crslib.identity import digest, file_sha256, sources_sha256
from crslib.simulation.population import Population
from crslib.store import Journal, Run

# Whose sources decide what is said. Parameters, tables and engines are part of the key by their values; metrics,
# reports and notebooks change no word (tests/simulation/test_dialogues.py).
DECIDE_THE_WORDS = (
    "identity.py",
    "dialogue",
    *("data/catalog.py", "data/histories.py", "data/spotting.py", "data/titles.py"),
    "engines",
    "users",
    "recommender",
    "simulation",
)


@dataclass(frozen=True)
class Dialogues:
    """Tables `dialogues`, `turns` and `prompts` of `schemas.TABLES`, sorted by dialogue and turn, and what `run.json`
    says of the `engines`: identity and hash of the chat template, per role."""

    dialogues: pl.DataFrame
    turns: pl.DataFrame
    prompts: pl.DataFrame
    engines: Mapping[str, Any]

    @classmethod
    def of(cls, journal: Journal, condition: str, engines: Mapping[str, Any]) -> Self:
        """The tables of a journal's records."""
        records = sorted(journal.records, key=lambda record: record["dialogue"]["dialogue_id"])
        names = {"run_id": journal.run_id, "condition": condition}
        dialogues = [{**record["dialogue"], **names} for record in records]
        turns, prompts = ([row for record in records for row in record[name]] for name in ("turns", "prompts"))
        return cls(_table("dialogues", dialogues), _table("turns", turns), _table("prompts", prompts), engines)

    def write(self, run: Run) -> None:
        """Writes the tables into the folder of `run`, and the engines into its `run.json`."""
        for name in ("dialogues", "turns", "prompts"):
            run.write(name, getattr(self, name))
        run.update(engines=self.engines)


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


def words_key(parameters: SimulationParameters, population: Population, engines: Sequence[Engine]) -> str:
    """What stands for all that decides the words of a population's dialogues, and for nothing else.

    Parameters but for the condition's name, the population's tables, the engines' identities, the styles, the
    discriminators, and the sources of `DECIDE_THE_WORDS`.
    """
    given = {name: value for name, value in parameters.identity().items() if name != "condition"}
    identities = [dict(engine.identity) for engine in engines]
    styles = file_sha256(resolve(parameters.styles)) if parameters.styles else ""
    sources = sources_sha256(DECIDE_THE_WORDS)
    weighing = resolve(parameters.discriminators) if parameters.discriminators else None
    judges = [file_sha256(path) for path in sorted(weighing.glob("*.json"))] if weighing else []
    return digest([given, population.sha256, identities, styles, sources, judges], "words")
