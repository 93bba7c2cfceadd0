"""What a cluster gains: the dialogues of one process of one core, and of as many nodes of one core each.

The nodes are simulated on this machine by Ray (`ray.cluster_utils.Cluster`), which needs a free core for each.
"""

import multiprocessing
import tempfile
from collections.abc import Iterator
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
    """Simulates the dialogues of `n` profiles in one process and on `n_nodes` nodes, each with one thread.

    `seconds_one`, `seconds_nodes`: from the opened agents, of nodes the first that are open, to the last dialogue.
    `start_one`, `start_nodes`: seconds before that, from the call that makes the process, or the workers on nodes that
    run. `efficiency`: dialogues per second and node, relative to the one process; `efficiency_with_start`: the same
    with the starts. Raises `CrsError` where Ray is missing or fails, and for dialogues that are not the same on both
    sides.
    """
    parameters = parameters.model_copy(update={"threads": 1})
    population = population_of(n)
    ids = sorted(wanted(population.profiles, parameters))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        started = perf_counter()
        seconds_one, expected = alone.submit(_in_one_process, parameters, population).result()
        whole_one = perf_counter() - started
    told: list[float] = []  # times at which `gather` reports: before all, and when the first agents are open, …

    def report(done: int, total: int) -> None:
        told.append(perf_counter())
        progress(done, total)

    shards = [Shard(number, n_nodes).ids(ids) for number in range(1, n_nodes + 1)]
    with (
        _nodes(n_nodes) as ray,
        tempfile.TemporaryDirectory(prefix="crs-") as folder,
        Run(Path(folder)).journal() as journal,
    ):
        started = perf_counter()
        cluster.gather(ray, population, parameters, shards, journal, report, len(ids))
        made = _words(journal.records)
    if made != expected:
        raise CrsError("the nodes said other words than the one process; report this as an error of crslib")
    return figures(len(ids), n_nodes, whole_one, seconds_one, told[-1] - started, told[-1] - told[1])


def figures(
    n: int, n_nodes: int, whole_one: float, seconds_one: float, whole_nodes: float, seconds_nodes: float
) -> dict[str, float]:
    """The figures of `measure`, from the seconds with (`whole_…`) and without the start."""
    return {
        "dialogues": n,
        "nodes": n_nodes,
        "start_one": whole_one - seconds_one,
        "start_nodes": whole_nodes - seconds_nodes,
        "seconds_one": seconds_one,
        "seconds_nodes": seconds_nodes,
        "efficiency": seconds_one / seconds_nodes / n_nodes,
        "efficiency_with_start": whole_one / whole_nodes / n_nodes,
    }


def lines(figures: dict[str, float]) -> list[str]:
    """The figures of `measure` as text."""
    rows = [
        ("one process of one core", figures["seconds_one"], figures["start_one"]),
        (f"{figures['nodes']:.0f} nodes of one core each", figures["seconds_nodes"], figures["start_nodes"]),
    ]
    return [
        f"{figures['dialogues']:.0f} dialogues",
        *(f"{name:26} {seconds:7.1f} s, after {start:.1f} s of start" for name, seconds, start in rows),
        f"efficiency {figures['efficiency']:.2f}, with the start {figures['efficiency_with_start']:.2f}",
    ]


def _in_one_process(parameters: SimulationParameters, population: Population) -> tuple[float, dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory(prefix="crs-") as folder,
        open_agents(parameters, population) as (user, recommender),
        Run(Path(folder)).journal() as journal,
    ):
        opened = perf_counter()
        simulate(population, user, recommender, parameters, journal)
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
