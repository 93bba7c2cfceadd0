"""What a cluster gains: the dialogues of one process of one core, and of as many nodes of one core each.

The nodes are simulated on this machine by Ray (`ray.cluster_utils.Cluster`), which needs a free core for each.
"""

import multiprocessing
import tempfile
from collections.abc import Iterator, Set
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from crslib.config import SimulationParameters
from crslib.errors import CrsError
from crslib.experiments import cluster
from crslib.experiments.benchmarks.engine import population_of
from crslib.experiments.shards import Shard
from crslib.files import Progress, no_progress
from crslib.simulation import Population, open_agents, simulate
from crslib.simulation.dialogues import wanted
from crslib.store import Run


def measure(
    parameters: SimulationParameters, n: int, n_nodes: int = 2, progress: Progress = no_progress
) -> dict[str, float]:
    """Simulates the dialogues of `n` profiles in one process, in `n_nodes` processes side by side without Ray, and on
    `n_nodes` nodes, each with one thread.

    `seconds_one`, `seconds_apart`, `seconds_nodes`: from the opened agents, of nodes the first that are open, to the
    last dialogue. `start_one`, `start_nodes`: seconds before that, from the call that makes the process, or the workers
    on nodes that run. `efficiency`: dialogues per second and node, relative to the one process, and
    `efficiency_with_start` the same with the starts; `efficiency_apart`: that of the processes without Ray, which share
    this machine's memory as nodes of their own would not. Raises `CrsError` where Ray is missing or fails, and for
    dialogues that are not the same on both sides.
    """
    parameters = parameters.model_copy(update={"threads": 1})
    population = population_of(n)
    ids = sorted(wanted(population.profiles, parameters))
    shards = [Shard(number, n_nodes).ids(ids) for number in range(1, n_nodes + 1)]
    with ProcessPoolExecutor(n_nodes, multiprocessing.get_context("spawn")) as processes:
        started = perf_counter()
        seconds_one, expected = processes.submit(_in_one_process, parameters, population, set(ids)).result()
        whole_one = perf_counter() - started
        apart = [processes.submit(_in_one_process, parameters, population, shard) for shard in shards]
        seconds_apart = max(part.result()[0] for part in apart)
    told: list[float] = []  # times at which `gather` reports: before all, and when the first agents are open, …

    def report(done: int, total: int) -> None:
        told.append(perf_counter())
        progress(done, total)

    with (
        _nodes(n_nodes) as ray,
        tempfile.TemporaryDirectory(prefix="crs-") as folder,
        Run(Path(folder)).journal() as journal,
    ):
        started = perf_counter()
        cluster.gather(ray, population, parameters, set(ids), n_nodes, journal, report, len(ids))
        made = _words(journal.records)
    if made != expected:
        raise CrsError("the nodes said other words than the one process; report this as an error of crslib")
    seconds = whole_one, seconds_one, seconds_apart, told[-1] - started, told[-1] - told[1]
    return figures(len(ids), n_nodes, *seconds)


def figures(
    n: int,
    n_nodes: int,
    whole_one: float,
    seconds_one: float,
    seconds_apart: float,
    whole_nodes: float,
    seconds_nodes: float,
) -> dict[str, float]:
    """The figures of `measure`, from the seconds with (`whole_…`) and without the start."""
    return {
        "dialogues": n,
        "nodes": n_nodes,
        "start_one": whole_one - seconds_one,
        "start_nodes": whole_nodes - seconds_nodes,
        "seconds_one": seconds_one,
        "seconds_apart": seconds_apart,
        "seconds_nodes": seconds_nodes,
        "efficiency": seconds_one / seconds_nodes / n_nodes,
        "efficiency_with_start": whole_one / whole_nodes / n_nodes,
        "efficiency_apart": seconds_one / seconds_apart / n_nodes,
    }


def lines(figures: dict[str, float]) -> list[str]:
    """The figures of `measure` as text."""
    n = f"{figures['nodes']:.0f}"
    one, apart, nodes = (figures[f"seconds_{name}"] for name in ("one", "apart", "nodes"))
    return [
        f"{figures['dialogues']:.0f} dialogues",
        f"{'one process of one core':33} {one:7.1f} s, after {figures['start_one']:.1f} s of start",
        f"{f'{n} processes side by side, no Ray':33} {apart:7.1f} s: efficiency {figures['efficiency_apart']:.2f}",
        f"{f'{n} nodes of one core each':33} {nodes:7.1f} s, after {figures['start_nodes']:.1f} s of start: efficiency "
        f"{figures['efficiency']:.2f}, with the start {figures['efficiency_with_start']:.2f}",
        f"Ray against the processes without it: {apart / nodes:.2f}",
    ]


def _in_one_process(
    parameters: SimulationParameters, population: Population, only: Set[str]
) -> tuple[float, dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory(prefix="crs-") as folder,
        open_agents(parameters, population) as (user, recommender),
        Run(Path(folder)).journal() as journal,
    ):
        opened = perf_counter()
        simulate(population, user, recommender, parameters, journal, only=only)
        return perf_counter() - opened, _words(journal.records)


def _words(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {record["dialogue"]["dialogue_id"]: record["turns"] for record in records}


@contextmanager
def _nodes(n: int) -> Iterator[Any]:
    ray = cluster.installed()
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(n - 1):
            nodes.add_node(num_cpus=1)
        with cluster.connected(nodes.address):
            yield ray
    finally:
        nodes.shutdown()
