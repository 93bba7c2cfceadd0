"""Runs on Ray: the dialogues of one process, byte for byte, whoever makes them and whatever is lost on the way."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from crslib.config import ROOT, resolve
from crslib.data import tables
from crslib.errors import CrsError
from crslib.experiments import cluster, pipeline, shards, sweep
from crslib.simulation import Population, open_agents, simulate
from crslib.store import Run
from crslib.users import profiles

pytest.importorskip("ray")

LIGHT = {"n_profiles": 6, "max_turns": 6, "resample": 1, "user_model": "agenda"}
TINY = {
    **{"n_profiles": 6, "max_turns": 3, "max_tokens": 6, "n_ctx": 512, "width": 2, "resample": 1, "threads": 1},
    **{"weights": "Q8_0", "title_model": 0, "title_base": 0},
}
# Names the next item of the catalogue; its first process ends itself, as a machine does that loses its power.
MORTAL = """
import os, signal
from pathlib import Path

def reply(turns):
    try:
        Path({marker!r}).touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    except FileExistsError:
        return {{"text": "Do you know it? " * (1 + len(turns)), "items": []}}
"""
# Its first process may not write files of more than 5 kB, as if its disk were full.
FULL = """
import resource
from pathlib import Path

def reply(turns):
    try:
        Path({marker!r}).touch(exist_ok=False)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
    except FileExistsError:
        pass
    return {{"text": "Do you know it? " * (1 + len(turns)), "items": []}}
"""


def with_profiles(given: dict[str, Any], reports: Path) -> pipeline.Plan:
    """A run whose profiles are there, without its first notebook."""
    planned = pipeline.plan(given, reports)
    data = resolve("data")
    about = tables.domain_of(data)
    profiles.build(*tables.load(data), planned.parameters, about).write(planned.run)
    return planned


def in_one_process(planned: pipeline.Plan, folder: Path) -> dict[str, dict[str, Any]]:
    parameters, population = shards.simulation_of(planned), Population.read(planned.run)
    with open_agents(parameters, population) as agents, Run(folder).journal() as journal:
        simulate(population, *agents, parameters, journal)
        return by_id(journal.records)


def by_id(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    assert len({record["dialogue"]["dialogue_id"] for record in records}) == len(records)
    return {record["dialogue"]["dialogue_id"]: record for record in records}


def test_workers_make_the_dialogues_of_one_process_although_one_is_lost(tmp_path: Path) -> None:
    marker, code = tmp_path / "killed", tmp_path / "mortal.py"
    code.write_text(MORTAL.format(marker=str(marker)))
    planned = with_profiles({**LIGHT, "recommender_model": f"python:{code}:reply"}, tmp_path)
    cluster.simulate_on_ray(planned, n_workers=2)
    assert marker.exists()
    with planned.run.journal() as journal:
        made = by_id(journal.records)
    assert made == in_one_process(planned, tmp_path / "whole")
    assert planned.run.reached == (6, 6, "dialogues")


@pytest.mark.hostile
def test_of_a_worker_with_a_full_disk_a_sentence_says_where_and_what_it_made_is_kept(tmp_path: Path) -> None:
    code = tmp_path / "full.py"
    code.write_text(FULL.format(marker=str(tmp_path / "marker")))
    planned = with_profiles({**LIGHT, "recommender_model": f"python:{code}:reply"}, tmp_path)
    with pytest.raises(
        CrsError, match=rf"on node {socket.gethostname()}: cannot write .*journal.jsonl: .*; free space"
    ):
        cluster.simulate_on_ray(planned, n_workers=1)
    with planned.run.journal() as journal:
        kept = by_id(journal.records)
    assert 0 < len(kept) < 6
    cluster.simulate_on_ray(planned, n_workers=1)
    with planned.run.journal() as journal:
        assert by_id(journal.records) == in_one_process(planned, tmp_path / "whole")


@pytest.mark.hostile
def test_what_a_worker_cannot_do_is_one_sentence(tmp_path: Path) -> None:
    code = tmp_path / "broken.py"
    code.write_text("def reply(turns):\n    raise RuntimeError('no such luck')\n")
    planned = with_profiles({**LIGHT, "n_profiles": 9, "recommender_model": f"python:{code}:reply"}, tmp_path)
    with pytest.raises(CrsError, match=r"8 dialogues failed and none ended.*no such luck"):
        cluster.simulate_on_ray(planned, n_workers=1)


def test_without_ray_a_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CrsError, match=r"Ray is not installed; run `pip install .*scale"), cluster.connected(""):
        pass


@pytest.mark.parametrize(
    ("on", "address"),
    [("ray", ""), ("auto", "auto"), ("ray://head:10001", "ray://head:10001"), ("10.0.0.1:6379", "10.0.0.1:6379")],
)
def test_addresses_of_clusters(on: str, address: str) -> None:
    assert cluster.address_of(on) == address


@pytest.mark.parametrize("on", ["", "rays", "slurm", "http://head", "head:"])
def test_what_names_no_cluster_is_refused(on: str) -> None:
    with pytest.raises(CrsError, match="is no Ray cluster; give ray, auto, ray://HOST:10001 or HOST:6379"):
        cluster.address_of(on)


def test_workers_share_what_may_be_asked_of_servers() -> None:
    parameters = shards.SimulationParameters(max_concurrency=16, requests_per_minute=2, threads=0)
    own = cluster._of_a_worker(parameters, 3)
    assert (own.max_concurrency, own.requests_per_minute, own.tokens_per_minute, own.threads) == (5, 1, 0, 1)


# ── with models, and with notebooks: pytest tests/experiments/test_cluster.py -m hostile ──


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run in one process."""
    planned = with_profiles(TINY, tmp_path_factory.mktemp("whole"))
    write_tables(planned)
    return planned.run


def write_tables(planned: pipeline.Plan) -> None:
    """What `02_simulate` does: it makes what is missing in the journal, and the tables of all."""
    parameters, population = shards.simulation_of(planned), Population.read(planned.run)
    with open_agents(parameters, population) as agents, planned.run.journal() as journal:
        simulate(population, *agents, parameters, journal).write(planned.run)


@pytest.mark.hostile
@pytest.mark.parametrize("n_workers", [2, 3])
def test_the_tables_are_those_of_one_process_although_a_worker_is_killed(
    whole: Run, tmp_path: Path, n_workers: int
) -> None:
    planned, killed = with_profiles(TINY, tmp_path), threading.Event()
    journal = planned.run.path / "journal.jsonl"
    threading.Thread(target=kill_one, args=(journal, killed), daemon=True).start()
    cluster.simulate_on_ray(planned, n_workers=n_workers)
    assert killed.is_set()
    made = journal.read_bytes()
    write_tables(planned)
    assert journal.read_bytes() == made  # there was nothing left to make
    for table in ("dialogues", "turns", "prompts"):
        assert (planned.run.path / f"{table}.parquet").read_bytes() == (whole.path / f"{table}.parquet").read_bytes()


def kill_one(journal: Path, killed: threading.Event) -> None:
    """Ends a worker when the first dialogue has ended."""
    while not (journal.exists() and journal.stat().st_size):
        time.sleep(0.02)
    for process in psutil.Process().children(recursive=True):
        if any("ray::Worker" in word for word in process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            killed.set()
            return


@pytest.mark.hostile
def test_a_sweep_on_ray_compares_the_runs_of_its_tasks(tmp_path: Path) -> None:
    light = {**LIGHT, "n_bootstrap": 100, "recommender_model": "python:data/protocol/newest.py:reply"}
    grid = [{**light, "opener": opener} for opener in ("mixed", "user")]
    planned = sweep.conditions(grid, tmp_path, 2)
    on_ray = partial(cluster.compute_on_ray, "", n_cpus=2)
    folder = sweep.execute(planned, tmp_path, 2, lambda conditions: None, on_ray)
    assert [condition.state for condition in planned] == ["success", "success"]
    assert (folder.path / "report.html").is_file()
    assert all(pipeline.is_complete(condition.plan.run) for condition in planned)


# ── clusters of several nodes, and by address: … -m hostile -k "lost_node or clients" ──

# Slow enough that its node can be lost while it works; leaves a mark of each node at which it was.
SLOW = """
import time
from pathlib import Path

import ray

def reply(turns):
    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "none"
    Path({seen!r}, node).touch()
    time.sleep(0.3)
    return {{"text": "Do you know it? " * (1 + len(turns)), "items": []}}
"""


@contextlib.contextmanager
def nodes_of_one_machine(**head: Any) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)
    nodes = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **head})
    try:
        yield nodes
    finally:
        nodes.shutdown()
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own


@pytest.mark.hostile
@pytest.mark.parametrize("is_replaced", [False, True])
def test_the_dialogues_of_a_lost_node_are_made_by_the_one_that_is_left_or_by_a_new_one(
    tmp_path: Path, is_replaced: bool
) -> None:
    seen, code = tmp_path / "seen", tmp_path / f"{tmp_path.name}.py"
    seen.mkdir()
    code.write_text(SLOW.format(seen=str(seen)))
    planned = with_profiles({**LIGHT, "recommender_model": f"python:{code}:reply"}, tmp_path)
    with nodes_of_one_machine(num_cpus=0 if is_replaced else 1) as nodes, ThreadPoolExecutor(1) as pool:
        lost, other = nodes.add_node(num_cpus=1), nodes.head_node
        simulated = pool.submit(cluster.simulate_on_ray, planned, nodes.address)
        while not (seen / lost.node_id).exists() and not simulated.done():
            time.sleep(0.02)
        nodes.remove_node(lost, allow_graceful=False)
        if is_replaced:
            other = nodes.add_node(num_cpus=1)  # in the main thread, as Ray's own signal handlers must be
        simulated.result()
        assert {path.name for path in seen.iterdir()} == {lost.node_id, other.node_id}
    with planned.run.journal() as journal:
        assert by_id(journal.records) == in_one_process(planned, tmp_path / "whole")


@pytest.mark.hostile
@pytest.mark.usefixtures("usual_signals")
def test_a_process_with_workers_has_time_to_end_when_it_is_told_to() -> None:
    words = """
import os, signal, time
from crslib.experiments import cluster, kernels

with kernels.ended_by_signals():
    try:
        with cluster.connected("", 1):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
    finally:
        time.sleep(5)  # what is open is closed, and copied
        print("closed")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGTERM, "closed\n")
    assert "SIGTERM" not in ended.stderr


@pytest.mark.hostile
def test_a_cluster_at_an_address_for_clients_replaces_a_lost_worker(tmp_path: Path) -> None:
    marker, code = tmp_path / "killed", tmp_path / f"{tmp_path.name}.py"
    code.write_text(MORTAL.format(marker=str(marker)))
    planned = with_profiles({**LIGHT, "recommender_model": f"python:{code}:reply"}, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with nodes_of_one_machine(num_cpus=2, ray_client_server_port=port):
        cluster.simulate_on_ray(planned, f"ray://127.0.0.1:{port}")
    assert marker.exists()
    with planned.run.journal() as journal:
        assert by_id(journal.records) == in_one_process(planned, tmp_path / "whole")
