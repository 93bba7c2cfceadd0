"""The benchmark of servers: a loopback one, and one that the parameters name."""

import pytest
from click.testing import CliRunner

from crslib.cli.main import main
from crslib.config import SimulationParameters
from crslib.experiments.benchmarks import server


def test_a_server_of_ones_own_is_asked_instead_of_the_loopback_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with server.answering(0) as url:
        monkeypatch.setattr(server, "answering", None)  # nothing else may be started
        model = f"openai:{server.MODEL}@{url}"
        given = {"user_model": model, "recommender_model": model, "resample": 1, "max_concurrency": 2}
        one, many = server.measure(SimulationParameters.parse(given), 2, 0)
    assert (one["at_once"], many["at_once"]) == (1, 2)
    assert one["requests"] == many["requests"] > 2
    assert one["tokens_out"] == many["tokens_out"] == 12 * one["requests"]
    assert one["failed"] == many["failed"] == 0


def test_figures_in_words() -> None:
    tokens = {"tokens_in": 5000, "tokens_out": 600}
    slow = {"at_once": 1, "seconds": 30.0, "requests": 40, "failed": 0, **tokens}
    fast = {"at_once": 16, "seconds": 10.0, "requests": 40, "failed": 1, **tokens}
    assert server.lines([slow, fast], 4) == [
        "  1 at once    30.0 s     8.0 dialogues a minute, 20 tokens a second of 40 answers",
        " 16 at once    10.0 s    18.0 dialogues a minute, 60 tokens a second of 40 answers",
        "ratio 3.0; 0 and 1 dialogues failed",
    ]
    assert CliRunner().invoke(main, ["bench", "server", "--help"]).output.count("user_model=openai:MODEL@URL") == 1


def test_a_server_that_is_not_asked_ends_too() -> None:
    """One that was told to end before it had quite begun went on for ever: in three of three trials within 500."""
    for _ in range(1000):
        with server.answering(0) as url:
            assert url.startswith("http://127.0.0.1:")
