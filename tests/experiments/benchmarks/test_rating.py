"""The rating page under load: small figures, and no vote is lost."""

from crslib.experiments.benchmarks import rating


def test_all_requests_are_answered_and_no_vote_is_lost() -> None:
    figures = rating.measure(30, 4, 40)
    assert {name: figures[name] for name in ("votes", "clients", "requests", "errors", "lost")} == {
        "votes": 30,
        "clients": 4,
        "requests": 40,
        "errors": 0,
        "lost": 0,
    }
    assert 0 < figures["p50"] <= figures["p99"] <= figures["longest"]
    assert rating.lines(figures)[0].startswith("a study with 30 votes; one client alone: ")
