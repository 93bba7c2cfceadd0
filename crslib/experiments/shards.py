"""A run in parts: the dialogues of a shard are simulated anywhere, and the journals of all shards make one run.

A dialogue's words depend on its own inputs alone, so a run of shards has the bytes of a run in one piece. For batch
schedulers: every task makes one shard, and `merged` plans the run once they have ended.
"""

import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from crslib.config import SimulationParameters
from crslib.errors import CrsError
from crslib.experiments import pipeline
from crslib.experiments.pipeline import Plan
from crslib.files import Progress, no_progress
from crslib.simulation import Population, open_agents, simulate
from crslib.simulation.dialogues import wanted
from crslib.store import Run

SAME_WORDS = "give -p weights=Q8_0 (or another form), and the same packages and files to all machines"


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `of` parts of a run's dialogues."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`3/8`. Raises `CrsError` for anything else."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if match and 1 <= int(match[1]) <= int(match[2]):
            return cls(int(match[1]), int(match[2]))
        raise CrsError(f"shard {text!r} is no part such as 3/8; the first number goes from 1 to the second")

    def ids(self, dialogue_ids: Sequence[str]) -> set[str]:
        """Those of `dialogue_ids` that are in this shard: every `of`-th, so that shards are of nearly equal size."""
        return set(sorted(dialogue_ids)[self.number - 1 :: self.of])

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def simulation_of(planned: Plan) -> SimulationParameters:
    """What `02_simulate` gets of a run's parameters: dialogues are known by exactly these, so it uses them again.

    Raises `CrsError` for a run with another notebook.
    """
    if "02_simulate" not in planned.parameters.stages:
        raise CrsError("a baseline has no shards; leave --shard, --on or the baseline out")
    return SimulationParameters.pick(planned.parameters.model_dump())


def run_of(planned: Plan, shard: Shard, reports: Path) -> Run:
    """The folder of a shard of a run, below `reports/shards`."""
    return Run(reports.resolve() / "shards" / planned.run_id / f"{shard.number}-of-{shard.of}")


def simulate_shard(planned: Plan, shard: Shard, reports: Path, progress: Progress = no_progress) -> Path:
    """Simulates the dialogues of a shard of a run into a folder of its own below `reports/shards`, and returns that.

    The same call goes on where a killed one stopped, and tries again what failed; how many dialogues failed is a
    warning, since all of one shard may. Raises `CrsError` for a run with another notebook than `02_simulate`, and as
    `simulate` does.
    """
    simulation, parameters = simulation_of(planned), planned.parameters
    run = run_of(planned, shard, reports)
    with run.lock():
        record = {"run_id": planned.run_id, "shard": [shard.number, shard.of], "parameters_given": dict(planned.given)}
        record |= {"machine": pipeline.machine()}
        run.update(**record, parameters=parameters.model_dump(), inputs=dict(planned.inputs), status="started")
        if "01_profiles" not in run.info.get("stages", {}):  # tables alone may be those of a killed one
            values = {field: getattr(parameters, field) for field in parameters.stages["01_profiles"].model_fields}
            started = time.monotonic()
            pipeline.execute_notebook("01_profiles", run.path, {"run_dir": str(run.path), **values})
            run.update(stages={"01_profiles": round(time.monotonic() - started, 1)})
        population = Population.read(run)
        only = shard.ids(list(wanted(population.profiles, simulation)))
        with open_agents(simulation, population, run.path) as (user, recommender), run.journal() as journal:
            simulated = simulate(population, user, recommender, simulation, journal, progress, only)
        run.update(n_failed=len(simulated.failures), status="success")
        for error in simulated.failures["error"].head(1):
            warnings.warn(
                f"{len(simulated.failures)} of {len(only)} dialogues of shard {shard} failed, such as: {error}; the "
                "same command tries them again, and so does the merge",
                stacklevel=2,
            )
    return run.path


def merged(folders: Sequence[Path], reports: Path, report: Callable[[str], None] = lambda text: None) -> Plan:
    """Puts the dialogues of all shards into the journal of their run below `reports`, and returns the run, planned.

    `pipeline.execute` makes the rest, dialogues that a shard lacks (they failed) included. Raises `CrsError` where the
    folders are not all shards of one run, the run would be another one here, or the shards have other words by what
    their machines had.
    """
    runs = [Run(folder.resolve()) for folder in folders]
    infos = [_shard_info(run) for run in runs]
    first = infos[0]
    given, of = first["parameters_given"], first["shard"][1]
    for run, info in zip(runs, infos, strict=True):
        if info["run_id"] != first["run_id"]:
            why = _differing(first["inputs"], info["inputs"])
            because = f" ({why} differs: {SAME_WORDS})" if why and info["parameters_given"] == given else ""
            raise CrsError(
                f"{run.path} is a shard of another run than {runs[0].path}{because}; merge the shards of one run"
            )
        if info["shard"][1] != of:
            raise CrsError(
                f"{run.path} and {runs[0].path} are of another division of the same run, {info['shard'][1]} shards and "
                f"{of}; give the folders of one division, such as {run.path.parent}/*-of-{of}"
            )
    if missing := sorted(set(range(1, of + 1)) - {info["shard"][0] for info in infos}):
        shards = ", ".join(f"{number}/{of}" for number in missing[:8]) + (" and more" if len(missing) > 8 else "")
        raise CrsError(f"shards {shards} are missing; make them with `crs run --shard`, then merge all of them")
    cpus = {info.get("machine", {}).get("cpu", "an unknown one") for info in infos}
    if len(cpus) > 1:
        warnings.warn(
            f"the shards were made on different processors ({'; '.join(sorted(cpus))}), where a local model may draw "
            "other words than in one process; make all of them on one kind where the bytes must be the same",
            stacklevel=2,
        )
    planned = pipeline.plan(given, reports, report)
    if planned.run_id != first["run_id"]:
        differs = _differing(planned.inputs, first["inputs"]) or "a parameter's file"
        raise CrsError(f"here the shards' run would be another one ({differs} differs); merge with the files they had")
    with planned.run.lock(), planned.run.journal() as journal:
        known = {record["dialogue"]["dialogue_id"]: record["key"] for record in journal.records}
        for run in runs:
            with run.journal() as part:
                for record in part.records:
                    dialogue_id, key = record["dialogue"]["dialogue_id"], record["key"]
                    if key != next(iter(known.values()), key):  # `02_simulate` would drop it
                        raise CrsError(f"{run.path} has other words than the shards before it; {SAME_WORDS}")
                    if dialogue_id not in known:
                        known[dialogue_id] = key
                        journal.append(record)
    return planned


def _differing(inputs: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """The names of the inputs that are not the same in both, those of an agent or a folder one by one."""
    names = []
    for name, value in inputs.items():
        other = others.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            names += [f"{part} of {name}" for part in value.keys() | other.keys() if value.get(part) != other.get(part)]
        elif value != other:
            names.append(name)
    return ", ".join(sorted(names))


def _shard_info(run: Run) -> dict[str, Any]:
    """`run.json` of a shard's folder. Raises `CrsError` where it is none, or is not done."""
    info = run.info
    if not isinstance(info.get("shard"), list) or "parameters_given" not in info:
        raise CrsError(f"{run.path} is no shard; give the folders that `crs run --shard` printed")
    if info["status"] != "success":
        number, of = info["shard"]
        raise CrsError(f"{run.path} is not done; give `crs run --shard {number}/{of}` with the same parameters again")
    return info
