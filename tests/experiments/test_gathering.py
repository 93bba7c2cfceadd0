"""Runs and sweeps on a cluster that loses workers, without one: Ray's answers are scripted."""

import contextlib
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from crslib.cli.main import main
from crslib.config import SimulationParameters
from crslib.errors import CrsError
from crslib.experiments import cluster, pipeline, sweep
from crslib.experiments.cluster import Taken, Worker
from crslib.files import no_progress
from crslib.simulation import opening
from crslib.store import Run

LIGHT = {"n_profiles": 6, "max_turns": 6, "resample": 1, "user_model": "agenda"}
NEWEST = "python:data/protocol/newest.py:reply"
SIMULATION = SimulationParameters(user_model="agenda", recommender_model=NEWEST, threads=1)
TABLES = SimpleNamespace(profiles=0, items=0, training=0, domain=0, source=0)


LARGE = ({"CPU": 64.0},)


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class ScriptedRay:
    """Ray whose workers answer as `script` says, by the least dialogue of their shard: each answer is a `Taken`, or an
    error. `asked`: the dialogues of each worker that was started."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, script: dict[str, list[Taken | Exception]], *nodes: dict[str, float]) -> None:
        self._script, self._nodes = {name: iter(answers) for name, answers in script.items()}, nodes or LARGE
        self.asked: list[set[str]] = []
        self.killed = 0
        self.alive = weakref.WeakSet[_Actor]()

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": node} for node in self._nodes] + [
            {"Alive": False, "Resources": {"CPU": 99}}
        ]

    def put(self, value: Any) -> Any:
        return value

    def remote(self, **options: Any) -> Any:
        def started(parameters: Any, tables: Any, only: set[str], expected: Any) -> Any:
            self.asked.append(only)
            shard = next(name for name in self._script if name[0] in {one[0] for one in only})
            worker = _Actor(SimpleNamespace(remote=lambda: _Future(self._script[shard])))
            self.alive.add(worker)
            return worker

        return lambda worker: SimpleNamespace(remote=started)

    def wait(self, futures: list[Any]) -> tuple[list[Any], list[Any]]:
        assert len(self.alive) == len(futures)  # who is done has given its place to those that wait for one
        return futures[:1], futures[1:]

    def get(self, future: "_Future") -> Taken:
        answer = next(future.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, worker: Any) -> None:
        self.killed += 1
        self.alive.discard(worker)


class _Actor:
    def __init__(self, take: Any) -> None:
        self.take = take


class _Future:
    def __init__(self, answers: Iterator[Taken | Exception]) -> None:
        self.answers = answers


def record(dialogue_id: str, key: str = "k") -> dict[str, Any]:
    return {"key": key, "dialogue": {"dialogue_id": dialogue_id}}


def some(*ids: str, failed: tuple[str, ...] = (), done: bool = False) -> Taken:
    return Taken([record(one) for one in ids], [{"dialogue_id": one, "error": f"no {one}"} for one in failed], done)


def gathered(folder: Path, ray: ScriptedRay, *shards: set[str], before: tuple[str, ...] = ()) -> list[str]:
    with Run(folder).journal() as journal:
        for one in before:
            journal.append(record(one))
        cluster.gather(ray, TABLES, SIMULATION, shards, journal, no_progress, 9)  # type: ignore[arg-type]
        return sorted(journal.dialogue_ids)


def test_each_shard_may_lose_workers_and_a_record_forgives_its_losses(tmp_path: Path) -> None:
    """A lost node with three workers is three losses at once; a shard that goes on may lose another two."""
    lost = RayError("gone")
    ray = ScriptedRay(
        {
            "a": [lost, lost, some("a1"), lost, lost, some("a2", done=True)],
            "b": [lost, some("b1", done=True)],
            "c": [lost, lost, some("c1", done=True)],
        }
    )
    assert gathered(tmp_path, ray, {"a1", "a2"}, {"b1"}, {"c1"}) == ["a1", "a2", "b1", "c1"]
    assert (ray.killed, len(ray.asked)) == (7, 10)
    assert ray.asked.count({"a2"}) == 2  # what had been handed over is not made again


def test_a_lost_node_without_which_there_is_no_room_is_said_and_waited_for(tmp_path: Path) -> None:
    ray = ScriptedRay({"a": [RayError("gone"), some("a1", done=True)]}, {"CPU": 0.0})
    with pytest.warns(UserWarning, match="a worker was lost, and no node .* --num-cpus; its dialogues wait for such"):
        assert gathered(tmp_path, ray, {"a1"}) == ["a1"]


def test_a_shard_that_always_loses_its_worker_ends_the_run_with_the_cause(tmp_path: Path) -> None:
    printed = (
        "The actor died because of an error\n\x1b[36mray::Worker()\x1b[0m\nModuleNotFoundError: No module named 'x'"
    )
    ray = ScriptedRay({"a": [some("a1"), *[RayError(printed)] * 3]})
    sentence = (
        r"3 workers .* lost in a row \(ModuleNotFoundError: No module named 'x'\); look at their memory and packages"
    )
    with pytest.raises(CrsError, match=sentence):
        gathered(tmp_path, ray, {"a1", "a2"})
    with Run(tmp_path).journal() as journal:
        assert journal.dialogue_ids == {"a1"}


def test_the_cause_of_a_loss_without_an_exception_is_its_first_line() -> None:
    assert cluster.reason(RayError("\nThe node ran low on memory.\nMore")) == "The node ran low on memory."
    assert cluster.reason(RayError()) == "RayError"


def test_a_shard_of_which_all_fail_ends_no_run(tmp_path: Path) -> None:
    """Not even when it loses its worker; what failed counts as done there, and is left to `02_simulate`."""
    many = tuple(f"a{n}" for n in range(9))
    ray = ScriptedRay({"b": [some("b1", done=True)], "a": [some(failed=many), RayError("gone"), some(done=True)]})
    assert gathered(tmp_path, ray, {"b1"}, {*many, "a9"}) == ["b1"]
    assert ray.asked[-1] == {"a9"}
    again = ScriptedRay({"a": [some(failed=many, done=True)]})
    assert gathered(tmp_path, again, set(many)) == ["b1"]  # a retry: the run has dialogues


def test_a_run_of_which_all_fail_is_given_up_after_a_few(tmp_path: Path) -> None:
    first, second = tuple(f"a{n}" for n in range(4)), tuple(f"b{n}" for n in range(4))
    ray = ScriptedRay({"a": [some(failed=first)], "b": [some(failed=second)]})
    with pytest.raises(CrsError, match=r"^8 dialogues failed and none ended: no b3$"):
        gathered(tmp_path, ray, {*first, "a9"}, {*second, "b9"})


def test_workers_of_other_words_end_the_run(tmp_path: Path) -> None:
    ray = ScriptedRay({"a": [Taken([record("a1", "other")], [], False)]})
    with pytest.raises(CrsError, match="two machines would say different words; give -p weights=Q8_0"):
        gathered(tmp_path, ray, {"a1"}, before=("z",))


def test_a_worker_whose_machine_would_say_other_words_says_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_simulate", lambda *given: pytest.fail("it simulates"))
    forms = {"weights": "merged, Q8_0", "llama_cpp_python": "1"}
    monkeypatch.setattr(opening, "planned", lambda role, parameters: {**forms})
    expected = cluster.decided(SIMULATION)
    assert expected["weights of the user"] == "merged, Q8_0"
    forms["weights"] = "merged, BF16"
    people = pl.DataFrame({"profile_id": ["u"]})
    worker = Worker(SIMULATION, (people, people, people, None, None), {"a"}, {**expected, "sources": "0"})
    sentence = r"\(sources, weights of the recommender, weights of the user\); give -p weights=Q8_0 .* same packages"
    with pytest.raises(CrsError, match=sentence):
        worker.take()


# ── room ──

NODES = {"CPU": 4.0}, {"CPU": 7.0, "GPU": 2.0}, {"memory": 1.0}


@pytest.mark.parametrize(("threads", "gpus", "n"), [(1, 0, 11), (2, 0, 5), (5, 0, 1), (1, 1, 2), (4, 1, 1)])
def test_room_is_what_each_live_node_holds(threads: int, gpus: int, n: int) -> None:
    assert cluster.room(ScriptedRay({}, *NODES), threads, gpus) == n


@pytest.mark.parametrize(
    ("nodes", "threads", "gpus", "sentence"),
    [
        (NODES, 8, 0, "threads = 8, and no node of the Ray cluster has more than 7 CPUs; give less"),
        (NODES[:1], 2, 1, "n_gpu_layers needs a GPU, and no node of the Ray cluster with 2 CPUs has one"),
        (NODES[2:], 1, 0, "no node of the Ray cluster gives a CPU"),
    ],
)
def test_what_no_node_has_room_for_is_refused(nodes: Any, threads: int, gpus: int, sentence: str) -> None:
    with pytest.raises(CrsError, match=sentence):
        cluster.room(ScriptedRay({}, *nodes), threads, gpus)


def test_there_are_no_more_workers_than_may_ask_a_server() -> None:
    local = SimulationParameters(max_concurrency=3, requests_per_minute=2)
    assert cluster.number_of_workers(local, 100, 8, 11) == 8
    assert cluster.number_of_workers(local, 5, 8, 11) == 5
    served = local.model_copy(update={"user_model": "openai:m@http://localhost:1/v1"})
    assert cluster.number_of_workers(served, 100, 8, 11) == 2


# ── a sweep ──


@pytest.fixture
def condition(tmp_path: Path) -> sweep.Condition:
    return sweep.Condition({}, pipeline.plan({**LIGHT, "recommender_model": NEWEST}, tmp_path))


def end(condition: sweep.Condition, failure: Exception) -> None:
    cluster._end(ScriptedRay({}), _Future(iter([failure])), condition)


def test_what_went_wrong_on_a_node_before_the_run_began_is_recorded(condition: sweep.Condition) -> None:
    condition.plan.run.update(status="success", stages={})
    end(condition, RayTaskError(CrsError("no file there")))
    assert (condition.state, condition.error) == ("error", "no file there")
    assert condition.plan.run.info["error"] == "no file there"
    end(condition, RayError("The node is gone.\nx"))
    assert condition.error == "the process of this condition was lost (The node is gone.); run the same again"


def test_a_run_that_another_process_has_keeps_its_record(condition: sweep.Condition) -> None:
    with condition.plan.run.lock():
        condition.plan.run.update(status="started", error=None)
        end(condition, RayTaskError(CrsError("in use")))
        assert condition.plan.run.info["status"] == "started"
    assert condition.error.startswith("in use by another process")


def test_a_condition_whose_folder_is_gone_says_so(condition: sweep.Condition) -> None:
    end(condition, RayTaskError(CrsError("x")))
    assert (condition.state, condition.gone) == ("error", True)
    assert condition.error.endswith("was renamed or removed; put it back and run the same again")


def test_a_sweep_without_anything_to_compute_starts_no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "connected", lambda *given: pytest.fail("Ray is started"))
    cluster.compute_on_ray("", [], tmp_path, lambda: None)


class Tasks(ScriptedRay):
    """Ray whose tasks end one after the other. `at_once`: how many were under way at each wait."""

    def __init__(self) -> None:
        super().__init__({}, {"CPU": 8.0, "GPU": 1.0})
        self.at_once: list[int] = []
        self.needs: list[dict[str, int]] = []

    def remote(self, **options: Any) -> Any:
        def with_needs(**needs: int) -> Any:
            self.needs.append(needs)
            return SimpleNamespace(remote=lambda given, reports: _Future(iter([some()])))

        return lambda function: SimpleNamespace(options=with_needs)

    def wait(self, futures: list[Any], **given: Any) -> tuple[list[Any], list[Any]]:
        self.at_once.append(len(futures))
        return (futures[:1], futures[1:]) if len(self.at_once) % 2 == 0 else ([], futures)


@pytest.mark.parametrize(("workers", "at_once"), [(0, [3, 3, 2, 2, 1, 1]), (2, [2, 2, 2, 2, 1, 1])])
def test_a_sweep_computes_so_many_at_a_time_and_says_how_long_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, at_once: list[int]
) -> None:
    ray = Tasks()
    monkeypatch.setattr(cluster, "connected", lambda *given: contextlib.nullcontext(ray))
    light = {**LIGHT, "recommender_model": NEWEST, "threads": 2}
    points = [light, {**light, "seed": 1}, {**light, "seed": 2, "n_gpu_layers": 1}]
    conditions = sweep.conditions(points, tmp_path)
    for one in conditions:
        one.plan.run.update(status="started")
    cluster.compute_on_ray("", conditions, tmp_path, lambda: None, workers=workers)
    assert ray.at_once == at_once
    assert ray.needs == [{"num_cpus": 2, "num_gpus": gpus} for gpus in (0, 0, 1)]
    assert all(one.seconds > 0 for one in conditions[1:])
    assert [one.state for one in conditions] == ["error"] * 3  # they made nothing here
    assert "its node made another run" in conditions[0].error


@pytest.mark.parametrize(("words", "workers"), [((), 0), (("--workers", "3"), 3)])
def test_a_sweep_on_a_cluster_heeds_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], workers: int
) -> None:
    asked: list[tuple[str, int]] = []

    def compute(address: str, *given: Any, workers: int) -> None:
        asked.append((address, workers))
        raise CrsError("enough")

    monkeypatch.setattr(cluster, "compute_on_ray", compute)
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"user_model: [agenda]\nrecommender_model: ['{NEWEST}']\nseed: [1, 2]\n")
    CliRunner().invoke(main, ["sweep", str(grid), "--on", "auto", *words, "--reports", str(tmp_path / "r")])
    assert asked == [("auto", workers)]
