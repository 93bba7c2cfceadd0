"""A run or a sweep on Ray: on this machine, or on the nodes of a cluster. Ray (extra `scale`) is imported only here.

A run: workers with agents of their own simulate the dialogues that this process deals to them, so a fast one makes
more. This process takes them back as they end, and it alone writes the run's journal. Where a worker or its node is
lost, what it had not handed over is dealt again. The tables are those of one process, byte for byte, because a dialogue
depends on its own inputs alone. A sweep: each of its conditions is a task.
"""

import contextlib
import math
import os
import platform
import queue
import re
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from crslib.config import SimulationParameters, install, kind_of, usable_cores
from crslib.errors import CrsError
from crslib.experiments import pipeline
from crslib.experiments.pipeline import Plan
from crslib.experiments.shards import SAME_WORDS, simulation_of
from crslib.experiments.sweep import Condition
from crslib.files import Progress
from crslib.journal import Journal
from crslib.simulation import Population, open_agents, opening, simulate
from crslib.simulation.dialogues import files_of_words, wanted
from crslib.simulation.loop import check_hope, most_alive
from crslib.store import Run

_STARTS = 3  # of Ray on this machine: it gives itself 30 seconds, which a busy machine may exceed
MOST_LOSSES = 3  # of a worker, without a dialogue between them: then something else is wrong than a lost machine
IN_HAND = 1.25  # dialogues that a worker holds per one that it has under way: the others bridge the way to this process


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
        raise CrsError(f"Ray is not installed; {install('scale')}") from None
    return ray


@contextlib.contextmanager
def connected(address: str, n_cpus: int | None = None) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`, or started on this machine with `n_cpus` where that is empty.

    Raises `CrsError` where Ray is missing or does not answer, also later.
    """
    ray, name = installed(), address or "this machine"
    ends = signal.getsignal(signal.SIGTERM)
    _connect(ray, address, n_cpus, name)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ends)  # Ray's own would abort this process after three seconds
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


def room(ray: Any, threads: int, gpus: int) -> int:
    """How many processes of `threads` CPUs and `gpus` (0 or 1) GPUs the live nodes hold at a time.

    Raises `CrsError` where none has room for one: Ray would wait for such a node for ever.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, most = (
        [int(node.get("CPU", 0)) // threads for node in nodes],
        int(max(n.get("CPU", 0) for n in nodes)),
    )
    if not most:
        raise CrsError("no node of the Ray cluster gives a CPU to others; start one with --num-cpus")
    if not sum(cpus):
        raise CrsError(f"threads = {threads}, and no node of the Ray cluster has more than {most} CPUs; give less")
    held = [min(n, int(node.get("GPU", 0))) if gpus else n for n, node in zip(cpus, nodes, strict=True)]
    if not sum(held):
        raise CrsError(
            f"n_gpu_layers needs a GPU, and no node of the Ray cluster with {threads} CPUs has one; leave n_gpu_layers "
            "out, or start the nodes with --num-gpus"
        )
    return sum(held)


# ── a run ──


def simulate_on_ray(planned: Plan, address: str = "", n_workers: int = 0) -> None:
    """Simulates what is missing in the journal of a run whose profiles are there: `pipeline.execute(simulate=…)`.

    A worker (Ray has another word) uses `threads` CPU threads, one where that is 0, and a GPU for `n_gpu_layers`.
    `n_workers`: at most so many; 0 is as many as the nodes have room for. `address`: of a cluster whose nodes have
    crslib and the parameters' files at the same paths; see `connected`. Dialogues that fail in a worker are left to
    `02_simulate`. Raises `CrsError` for a worker's `CrsError`, where no node has room for one, and after `MOST_LOSSES`
    losses of a worker in a row.
    """
    run, parameters = planned.run, simulation_of(planned)
    population, threads = Population.read(run), parameters.threads or 1
    ids = wanted(population.profiles, parameters)
    with run.journal() as journal, run.progress("dialogues") as progress:
        left = ids.keys() - journal.dialogue_ids
        if not left:
            return
        with connected(address, max(n_workers * threads, threads, usable_cores())) as ray:
            most = room(ray, threads, _gpus(parameters))
            n = number_of_workers(parameters, len(left), n_workers or most, most)
            gather(ray, population, _of_a_worker(parameters, n), left, n, journal, progress, len(ids))


def number_of_workers(parameters: SimulationParameters, n_dialogues: int, *most: int) -> int:
    """At most as many as there are dialogues, and each of `most`; and where servers are asked, as the least of what may
    be asked of them, since no worker can do with less than 1."""
    asks = any(kind_of(parameters.model(role)) in ("openai", "http") for role in opening.ROLES)
    return min(n_dialogues, *most, *(_limits(parameters).values() if asks else ()))


def _gpus(parameters: Any) -> int:
    return 1 if getattr(parameters, "n_gpu_layers", 0) else 0


def _limits(parameters: SimulationParameters) -> dict[str, int]:
    """What may be asked of servers by all workers together."""
    names = ("max_concurrency", "requests_per_minute", "tokens_per_minute")
    return {name: value for name in names if (value := getattr(parameters, name))}


def _of_a_worker(parameters: SimulationParameters, n_workers: int) -> SimulationParameters:
    """The parameters of one of `n_workers`, which share what may be asked of servers."""
    shared = {name: max(value // n_workers, 1) for name, value in _limits(parameters).items()}
    return parameters.model_copy(update={**shared, "threads": parameters.threads or 1})


def gather(
    ray: Any,
    population: Population,
    parameters: SimulationParameters,
    ids: Set[str],
    n_workers: int,
    journal: Journal,
    progress: Progress,
    total: int,
) -> None:
    """Appends the dialogues `ids` to `journal`, whichever of `n_workers` has one first.

    `progress` is called before and after each time that a worker says something; the first is that its agents are open.
    A worker that has no place at the end, because a node was lost, is not waited for.
    """
    tables, expected = ray.put(tables_of(population)), decided(parameters)
    remote = ray.remote(num_cpus=parameters.threads, num_gpus=_gpus(parameters))(Worker).remote
    left, hands = sorted(ids - journal.dialogue_ids), [set[str]() for _ in range(n_workers)]
    losses, working, ending = [0] * n_workers, set[int](), set[int]()
    failures: dict[str, dict[str, Any]] = {}

    def started(number: int) -> tuple[Any, tuple[Any, int]]:
        worker = remote(parameters, tables, expected)
        return worker.take.remote([], False), (worker, number)

    asked = dict(map(started, range(n_workers)))
    while left or working:
        progress(len(journal.records) + len(failures), total)
        for one in ray.wait(list(asked))[0]:
            worker, number = asked.pop(one)
            try:
                taken = ray.get(one)
            except ray.exceptions.RayTaskError as error:
                raise _sentence(error.cause) from None
            except ray.exceptions.RayError as error:  # the worker or its node is gone, or it could not start there
                losses[number] += 1
                if losses[number] >= MOST_LOSSES:
                    raise CrsError(
                        f"{MOST_LOSSES} workers were lost in a row without a dialogue ({reason(error)}); look at "
                        "their memory and packages, then run the same again: finished dialogues are kept"
                    ) from None
                ray.kill(worker)  # it may only have been out of reach
                try:
                    room(ray, parameters.threads, _gpus(parameters))
                except CrsError as lack:
                    warnings.warn(f"a worker was lost, and {lack}; its dialogues wait for such a node", stacklevel=2)
                left = sorted([*left, *hands[number]])
                hands[number].clear()
                working.discard(number)
                ending.discard(number)
                asked.update([started(number)])
                continue
            working.add(number)
            for record in taken.records:
                losses[number] = 0
                _append(journal, record)
            for row in taken.failures:
                failures[row["dialogue_id"]] = row
                check_hope(journal, failures.values())
            hands[number] -= journal.dialogue_ids | failures.keys()
            if taken.done:
                working.discard(number)
            else:
                n = min(taken.most - len(hands[number]), math.ceil(len(left) / n_workers))
                n = 0 if number in ending else max(n, 0)  # what comes back from a lost worker is not for one that ends
                dealt, left = left[:n], left[n:]
                hands[number].update(dealt)
                if not left:
                    ending.add(number)
                asked[worker.take.remote(dealt, not left)] = worker, number
            del worker  # a worker ends with its last name, and one that waits for its place would do so for ever
    progress(len(journal.records) + len(failures), total)


def _append(journal: Journal, record: Mapping[str, Any]) -> None:
    if journal.records and journal.records[0]["key"] != record["key"]:
        raise CrsError(f"two machines would say different words; {SAME_WORDS}")
    journal.append(record)


def reason(error: Exception) -> str:
    """What Ray says of a loss, in a line: the exception that a process ended with, if it names one."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(error).split("\n")]
    named = [line for line in lines if re.match(r"[A-Za-z_.]*(Error|Exception): ", line)]
    return (named or [*filter(None, lines), type(error).__name__])[-1 if named else 0]


def _sentence(cause: BaseException) -> CrsError:
    return cause if isinstance(cause, CrsError) else CrsError(f"a worker failed: {type(cause).__name__}: {cause}")


def tables_of(population: Population) -> tuple[Any, ...]:
    """What a `Worker` makes the population of: profiles, items and visible ratings, their domain and source."""
    return population.profiles, population.items, population.training, population.domain, population.source


def decided(parameters: SimulationParameters) -> dict[str, Any]:
    """What decides the words of dialogues here, beside parameters and tables, which a worker gets: by what it is of."""
    agents = {role: opening.planned(role, parameters) for role in opening.ROLES}
    parts = {f"{part} of the {role}": value for role, agent in agents.items() for part, value in agent.items()}
    return {**parts, **files_of_words(parameters)}


class Taken(NamedTuple):
    """What `Worker.take` gives: records of dialogues that have ended, rows of `failures`, whether that is all, and how
    many dialogues the worker can have in hand."""

    records: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    done: bool
    most: int


class Worker:
    """A worker: a process with its own agents, which simulate in a thread what is dealt to it."""

    def __init__(self, parameters: SimulationParameters, tables: tuple[Any, ...], expected: Mapping[str, Any]) -> None:
        """`tables`: see `tables_of`; `expected`: what `decided` gives on the machine that gets the dialogues."""
        profiles, items, training, domain, source = tables
        population = Population(profiles, items, training, domain, source=source)
        self._made: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._dealt: queue.SimpleQueue[tuple[Sequence[str], bool]] = queue.SimpleQueue()
        self._most, self._is_last = 0, False
        threading.Thread(target=self._work, args=(parameters, population, expected), daemon=True).start()

    def take(self, dealt: Sequence[str], is_last: bool) -> Taken:
        """What there is since the last call; it waits for something: first for the agents, then for a dialogue.

        `dealt`: ids of further dialogues; `is_last`: no more will come. Raises what ended the simulation, and
        `CrsError` where other words would be said than elsewhere.
        """
        self._dealt.put((dealt, is_last))
        made = [self._made.get()]
        while made[-1][0] not in ("end", "error") and not self._made.empty():
            made.append(self._made.get())
        records, failures = ([value for what, value in made if what == one] for one in ("record", "failure"))
        what, error = made[-1]
        if what == "error":
            if len(made) == 1:
                raise error
            self._made.put(made[-1])  # for the next call, after what was made before it
        return Taken(records, failures, what == "end", self._most)

    def _more(self, wait: bool) -> list[str]:
        """The dialogues that were dealt since the last call; see `simulate`."""
        more: list[str] = []
        while not self._is_last and (not self._dealt.empty() or (wait and not more)):
            dealt, self._is_last = self._dealt.get()
            more += dealt
        return more

    def _work(self, parameters: SimulationParameters, population: Population, expected: Mapping[str, Any]) -> None:
        try:
            here = decided(parameters)
            if other := sorted(name for name in here.keys() | expected.keys() if here.get(name) != expected.get(name)):
                raise CrsError(f"it would say other words than this machine ({', '.join(other)}); {SAME_WORDS}")
            with tempfile.TemporaryDirectory(prefix="crs-") as folder:
                self._simulate(parameters, population, Run(Path(folder)))
            self._made.put(("end", None))
        except CrsError as error:
            self._made.put(("error", CrsError(f"the worker on node {platform.node()}: {error}")))
        except BaseException as error:
            self._made.put(("error", error))

    def _simulate(self, parameters: SimulationParameters, population: Population, run: Run) -> None:
        """Simulates what is dealt, and hands each dialogue over when it has ended or failed."""
        n_handed = 0
        with open_agents(parameters, population, run.path) as (user, recommender), run.journal() as journal:
            self._most = round(IN_HAND * most_alive(user, recommender))
            self._made.put(("opened", None))

            def progress(done: int, total: int) -> None:
                nonlocal n_handed
                for record in journal.records[n_handed:]:
                    self._made.put(("record", record))
                n_handed = len(journal.records)

            def failed(row: Mapping[str, Any]) -> None:
                self._made.put(("failure", dict(row)))

            simulate(population, user, recommender, parameters, journal, progress, set(), failed, self._more)


# ── a sweep ──


def compute_on_ray(
    address: str,
    waiting: Sequence[Condition],
    reports: Path,
    show: Callable[[], None],
    n_cpus: int | None = None,
    workers: int = 0,
) -> None:
    """Computes the conditions `waiting` of a sweep, each in a task: `sweep.execute(compute=…)`.

    `workers`: at most so many at a time; 0 is as many as the nodes have room for. The nodes of a cluster need crslib,
    the parameters' files and the folder `reports` at the same paths. A condition whose node is lost continues on
    another. Raises `CrsError` where no node has room for a condition.
    """
    if not waiting:
        return
    needs = {c.plan.run_id: (getattr(c.plan.parameters, "threads", 0) or 1, _gpus(c.plan.parameters)) for c in waiting}
    most = max(threads for threads, _ in needs.values())
    left, running, began = list(waiting), dict[Any, Condition](), dict[str, float]()
    with connected(address, n_cpus or max(workers * most, most, usable_cores())) as ray:
        for threads, gpus in needs.values():
            room(ray, threads, gpus)
        task = ray.remote(max_retries=MOST_LOSSES)(_condition)
        try:
            while left or running:
                while left and (not workers or len(running) < workers):
                    condition = left.pop(0)
                    threads, gpus = needs[condition.plan.run_id]
                    started = task.options(num_cpus=threads, num_gpus=gpus)
                    running[started.remote(dict(condition.given), str(reports.resolve()))] = condition
                for one in ray.wait(list(running), timeout=0.25)[0]:
                    _end(ray, one, running.pop(one))
                for condition in running.values():
                    if condition.plan.run.outcome.get("status") == "started":
                        condition.state = "running"
                        first = began.setdefault(condition.plan.run_id, time.monotonic())
                        condition.seconds = time.monotonic() - first
                show()
        finally:
            for one in running:
                ray.cancel(one)
            ray.wait(list(running), num_returns=len(running), timeout=10) if running else None  # each records it


def _condition(given: dict[str, Any], reports: str) -> None:
    pipeline.execute(pipeline.plan(given, Path(reports)))


def _end(ray: Any, task: Any, condition: Condition) -> None:
    run = condition.plan.run
    try:
        ray.get(task)
        error = CrsError("its node made another run, by other weights or files; give all the same ones")
    except ray.exceptions.RayTaskError as failure:
        error = _sentence(failure.cause)
    except ray.exceptions.RayError as failure:
        error = CrsError(f"the process of this condition was lost ({reason(failure)}); run the same again")
    condition.gone = not run.path.exists()
    condition.state = "success" if pipeline.is_complete(run) else "error"
    if condition.state == "success" or condition.gone:
        return
    # Most errors are recorded where they occur; what went wrong before that is not. Of a run that another process has,
    # `run.json` is that one's, and `Condition.error` says so.
    if run.outcome.get("error") != str(error) and not run.in_use:
        with contextlib.suppress(CrsError):  # its run.json may be damaged, which its error then says
            run.update(status="error", error=str(error))
