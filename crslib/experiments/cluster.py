"""A run or a sweep on Ray: on this machine, or on the nodes of a cluster. Ray (extra `scale`) is imported only here.

A run: workers simulate shards of its dialogues, each with its own agents. This process takes the dialogues from them as
they end, and it alone writes the run's journal. Where a worker or its node is lost, what it had not handed over is made
by a new one. The tables are those of one process, byte for byte, because a dialogue depends on its own inputs alone.
A sweep: each of its conditions is a task.
"""

import contextlib
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crslib.config import SimulationParameters
from crslib.errors import CrsError
from crslib.experiments import pipeline
from crslib.experiments.pipeline import Plan
from crslib.experiments.shards import Shard, simulation_of
from crslib.experiments.sweep import Condition
from crslib.files import Progress
from crslib.journal import Journal
from crslib.simulation import Population, open_agents, simulate
from crslib.simulation.dialogues import wanted
from crslib.store import Run

_STARTS = 3  # of Ray on this machine: it gives itself 30 seconds, which a busy machine may exceed
MOST_LOSSES = 3  # in a row, without a dialogue between them: then something else is wrong than a lost machine


def address_of(on: str) -> str:
    """The address in an option `--on`: empty for `ray`, a cluster on this machine for the time of a command. Raises
    `CrsError` for anything that names no Ray cluster."""
    if on == "ray":
        return ""
    if on == "auto" or on.startswith("ray://") or on.rpartition(":")[2].isdecimal():
        return on
    raise CrsError(f"--on {on!r} is no Ray cluster; give ray, auto, ray://HOST:10001 or HOST:6379")


def installed() -> Any:
    """The module `ray`. Raises `CrsError` where it is missing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray
    except ImportError:
        raise CrsError("Ray is not installed; install it with: pip install 'crslib[scale]'") from None
    return ray


@contextlib.contextmanager
def connected(address: str, n_cpus: int | None = None) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`, or started on this machine with `n_cpus` where that is empty.

    Raises `CrsError` where Ray is missing or does not answer, also later.
    """
    ray, name = installed(), address or "this machine"
    _connect(ray, address, n_cpus, name)
    try:
        yield ray
    except ConnectionError as error:
        raise CrsError(
            f"the Ray cluster at {name} was lost ({error}); run the same again: what is finished is kept"
        ) from None
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str, n_cpus: int | None, name: str) -> None:
    where: dict[str, Any] = {"address": address} if address else {"num_cpus": n_cpus, "include_dashboard": False}
    for left in reversed(range(1 if address else _STARTS)):
        try:
            ray.init(**where, log_to_driver=False, logging_level="error")
            return
        except Exception as error:  # Ray has no class of its own for it
            ray.shutdown()
            if not left:
                reason = str(error).partition("\n")[0]
                raise CrsError(f"no Ray cluster answers at {name} ({reason}); check it and its address") from None


# ── a run ──


def simulate_on_ray(planned: Plan, address: str = "", n_workers: int = 0) -> None:
    """Simulates what is missing in the journal of a run whose profiles are there: `pipeline.execute(simulate=…)`.

    A worker (Ray has another word) uses `threads` CPU threads, one where that is 0. `n_workers`: 0 is as many as there
    are CPUs for. `address`: of a cluster whose nodes have crslib and the parameters' files at the same paths; see
    `connected`. Dialogues that fail in a worker are left to `02_simulate`. Raises `CrsError` for a worker's `CrsError`,
    and after `MOST_LOSSES` losses in a row.
    """
    run, parameters = planned.run, simulation_of(planned)
    population, threads = Population.read(run), parameters.threads or 1
    ids = wanted(population.profiles, parameters)
    with run.journal() as journal, run.progress("dialogues") as progress:
        left = sorted(ids.keys() - journal.dialogue_ids)
        if not left:
            return
        with connected(address, max(n_workers * threads, os.cpu_count() or 1)) as ray:
            most = n_workers or int(ray.cluster_resources().get("CPU", 1)) // threads
            n = min(max(most, 1), len(left))
            shards = [Shard(number, n).ids(left) for number in range(1, n + 1)]
            gather(ray, population, _of_a_worker(parameters, n), shards, journal, progress, len(ids))


def _of_a_worker(parameters: SimulationParameters, n_workers: int) -> SimulationParameters:
    """The parameters of one of `n_workers`, which share what may be asked of servers."""
    limits = ("max_concurrency", "requests_per_minute", "tokens_per_minute")
    shared = {name: max(value // n_workers, 1) for name in limits if (value := getattr(parameters, name))}
    return parameters.model_copy(update={**shared, "threads": parameters.threads or 1})


def gather(
    ray: Any,
    population: Population,
    parameters: SimulationParameters,
    shards: Sequence[set[str]],
    journal: Journal,
    progress: Progress,
    total: int,
) -> None:
    """Appends the dialogues of all shards to `journal`, whichever worker has one first."""
    tables = ray.put(tables_of(population))
    gpus = 1 if parameters.n_gpu_layers else 0
    remote = ray.remote(num_cpus=parameters.threads, num_gpus=gpus)(Worker).remote

    def started(shard: set[str]) -> tuple[Any, set[str]]:
        return remote(parameters, tables, shard - journal.dialogue_ids), shard

    asked = {worker.take.remote(): (worker, shard) for worker, shard in map(started, shards)}
    losses = 0
    while asked:
        progress(len(journal.records), total)
        for one in ray.wait(list(asked))[0]:
            worker, shard = asked.pop(one)
            try:
                records, done = ray.get(one)
            except ray.exceptions.RayTaskError as error:
                raise _sentence(error.cause) from None
            except ray.exceptions.RayError as error:  # the worker or its node is gone
                losses += 1
                if losses >= MOST_LOSSES:
                    raise CrsError(
                        f"{losses} workers were lost in a row ({type(error).__name__}); look at their memory, then run "
                        "the same again: finished dialogues are kept"
                    ) from None
                ray.kill(worker)  # it may only have been out of reach
                worker, shard = started(shard)
                records, done = [], False
            for record in records:
                losses = 0
                _append(journal, record)
            if not done:
                asked[worker.take.remote()] = worker, shard
    progress(len(journal.records), total)


def _append(journal: Journal, record: Mapping[str, Any]) -> None:
    if journal.records and journal.records[0]["key"] != record["key"]:
        raise CrsError(
            "two machines would say different words, e.g. by other weights or versions; give -p weights=Q8_0 (or "
            "another form), and the same packages and files to all of them"
        )
    journal.append(record)


def _sentence(cause: BaseException) -> CrsError:
    return cause if isinstance(cause, CrsError) else CrsError(f"a worker failed: {type(cause).__name__}: {cause}")


def tables_of(population: Population) -> tuple[Any, ...]:
    """What a `Worker` makes the population of: profiles, items and visible ratings, their domain and source."""
    return population.profiles, population.items, population.training, population.domain, population.source


class Worker:
    """A worker: a process with its own agents, which simulate a shard in a thread."""

    def __init__(self, parameters: SimulationParameters, tables: tuple[Any, ...], only: set[str]) -> None:
        """`tables`: see `tables_of`; `only`: ids of dialogues."""
        profiles, items, training, domain, source = tables
        population = Population(profiles, items, training, domain, source=source)
        self._made: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, args=(parameters, population, only), daemon=True).start()

    def take(self) -> tuple[list[dict[str, Any]], bool]:
        """The records of the dialogues that have ended since the last call, at least one, and whether all have ended.

        Raises what ended the simulation.
        """
        made = [self._made.get()]
        while made[-1] is not None and not self._made.empty():
            made.append(self._made.get())
        records = [one for one in made if isinstance(one, dict)]
        if not records and isinstance(made[-1], BaseException):
            raise made[-1]
        if isinstance(made[-1], BaseException):
            self._made.put(made[-1])  # for the next call, after what was made before it
        return records, made[-1] is None

    def _work(self, parameters: SimulationParameters, population: Population, only: set[str]) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="crs-") as folder:
                _simulate(parameters, population, only, Run(Path(folder)), self._made.put)
            self._made.put(None)
        except BaseException as error:
            self._made.put(error)


def _simulate(
    parameters: SimulationParameters, population: Population, only: set[str], run: Run, hand_over: Callable[[Any], None]
) -> None:
    """Simulates the dialogues `only`, and hands each over when it has ended."""
    n_handed = 0
    with open_agents(parameters, population, run.path) as (user, recommender), run.journal() as journal:

        def progress(done: int, total: int) -> None:
            nonlocal n_handed
            for record in journal.records[n_handed:]:
                hand_over(record)
            n_handed = len(journal.records)

        simulate(population, user, recommender, parameters, journal, progress, only)


# ── a sweep ──


def compute_on_ray(
    address: str, waiting: Sequence[Condition], reports: Path, show: Callable[[], None], n_cpus: int | None = None
) -> None:
    """Computes the conditions `waiting` of a sweep, each in a task: `sweep.execute(compute=…)`.

    The nodes of a cluster need crslib, the parameters' files and the folder `reports` at the same paths. A condition
    whose node is lost continues on another.
    """
    with connected(address, n_cpus) as ray:
        task = ray.remote(max_retries=MOST_LOSSES)(_condition)
        running: dict[Any, Condition] = {}
        for condition in waiting:
            threads = getattr(condition.plan.parameters, "threads", 0) or 1
            running[task.options(num_cpus=threads).remote(dict(condition.given), str(reports.resolve()))] = condition
        try:
            while running:
                for one in ray.wait(list(running), timeout=0.25)[0]:
                    _end(ray, one, running.pop(one))
                for condition in running.values():
                    if condition.plan.run.outcome.get("status") == "started":
                        condition.state = "running"
                show()
        finally:
            for one in running:
                ray.cancel(one)
            ray.wait(list(running), num_returns=len(running), timeout=10) if running else None  # each records it


def _condition(given: dict[str, Any], reports: str) -> None:
    pipeline.execute(pipeline.plan(given, Path(reports)))


def _end(ray: Any, task: Any, condition: Condition) -> None:
    try:
        ray.get(task)
        condition.state = "success" if pipeline.is_complete(condition.plan.run) else "error"
        if condition.state == "error":
            _record(condition, CrsError("its node made another run, by other weights or files; give all the same ones"))
    except ray.exceptions.RayTaskError as error:
        condition.state = "error"
        if not isinstance(error.cause, CrsError):  # it has recorded its own
            _record(condition, _sentence(error.cause))
    except ray.exceptions.RayError as error:
        condition.state = "error"
        lost = f"the process of this condition was lost ({type(error).__name__}); run the same again"
        _record(condition, CrsError(lost))


def _record(condition: Condition, error: CrsError) -> None:
    with contextlib.suppress(CrsError):  # its run.json may be damaged, which its error then says
        condition.plan.run.update(status="error", error=str(error))
