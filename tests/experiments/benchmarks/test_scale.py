"""What a cluster gains: its figures, and that nodes say what one process says."""

import pytest

from crslib.config import SimulationParameters
from crslib.experiments.benchmarks import scale


def test_figures_by_hand() -> None:
    """One process: 4 of 24 s are its start; two processes: 12 s; two nodes: 2 of 14.5 s."""
    figures = scale.figures(8, 2, 24.0, 20.0, 12.0, 14.5, 12.5)
    assert figures == {
        **{
            "dialogues": 8,
            "nodes": 2,
            "start_one": 4.0,
            "start_nodes": 2.0,
            "seconds_one": 20.0,
            "seconds_apart": 12.0,
            "seconds_nodes": 12.5,
        },
        **{"efficiency": 0.8, "efficiency_with_start": pytest.approx(24 / 29)},
        "efficiency_apart": pytest.approx(20 / 24),
    }
    assert scale.lines(figures) == [
        "8 dialogues",
        "one process of one core              20.0 s, after 4.0 s of start",
        "2 processes side by side, no Ray     12.0 s: efficiency 0.83",
        "2 nodes of one core each             12.5 s, after 2.0 s of start: efficiency 0.80, with the start 0.83",
        "Ray against the processes without it: 0.96",
    ]


@pytest.mark.hostile  # starts two nodes: pytest tests/experiments/benchmarks/test_scale.py -m hostile
def test_nodes_say_what_one_process_says() -> None:
    pytest.importorskip("ray")
    light = {"user_model": "agenda", "recommender_model": "python:data/protocol/newest.py:reply", "max_turns": 4}
    told: list[tuple[int, int]] = []
    figures = scale.measure(SimulationParameters(**light), 4, 2, lambda done, total: told.append((done, total)))
    assert (figures["dialogues"], told[0], told[-1]) == (4, (0, 4), (4, 4))
    assert (
        min(figures[name] for name in ("start_one", "start_nodes", "seconds_one", "seconds_apart", "seconds_nodes")) > 0
    )
