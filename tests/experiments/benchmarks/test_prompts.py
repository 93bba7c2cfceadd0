"""Prompted against untold: the rule of turns in role, and the figures of two small dialogues counted by hand."""

from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from crslib.cli.main import main
from crslib.config import SimulationParameters
from crslib.experiments.benchmarks import prompts
from crslib.experiments.benchmarks.prompts import in_role
from tests.support.domains import MOVIES
from tests.support.metrics_frames import talk


@pytest.mark.parametrize(
    ("role", "utterance", "expected"),
    [
        ("user", "hi, i am looking for a funny movie", True),
        ("user", "I loved [[Heat (1995)]]! What else is there with Al Pacino?", True),
        ("user", "Can you recommend something like [[Up (2009)]]?", True),
        ("user", "Would you recommend it for kids?", True),
        ("user", "Thanks for your help, bye", True),
        ("user", "Hello! How can I help you today?", False),
        ("user", "I’d be happy to help. What kind of movies do you like?", False),
        ("user", "Sure, I would recommend [[Heat (1995)]].", False),
        ("user", "I'll just have to suggest a couple of movies.", False),
        ("user", "You might like [[Up (2009)]].", False),
        ("user", "As an AI, I have no taste.", False),
        ("user", "(Heat (1995): seen, liked)", False),
        ("user", "", False),
        ("recommender", "Hello! What kind of movies do you like?", True),
        ("recommender", "I would recommend [[Heat (1995)]], have you seen it?", True),
        ("recommender", "I am looking for you, one second.", True),
        ("recommender", "Bye, enjoy the movie", True),
        ("recommender", "I'm looking for a comedy from the 90s.", False),
        ("recommender", "Can you recommend something with Al Pacino?", False),
        ("recommender", "I want to watch [[Up (2009)]].", False),
        ("recommender", "I am an AI language model and cannot watch movies.", False),
        ("recommender", "  ", False),
    ],
)
def test_turns_out_of_role_are_recognised(role: str, utterance: str, expected: bool) -> None:
    assert in_role(role, utterance) is expected


def test_figures_by_hand() -> None:
    dialogues, turns = talk(
        {
            "a.0": [
                "U: Hello, how can I help you?",  # 6 words, out of role
                "R: Try [[Heat (1995)]] or [[Fake (2031)]]",  # 6 words
                "U: Seen [[Heat (1995)]]",  # 3 words
            ],
            "b.0": ["R: I want to watch [[Up (2009)]]"],  # 6 words, out of role
        }
    )
    dialogues = dialogues.with_columns(pl.Series("stop_reason", ["user_left", "max_turns"]))
    measured = prompts.figures("prompted", dialogues, turns, MOVIES)
    assert dict(measured.select("measure", "value").iter_rows()) == pytest.approx(
        {
            "user_in_role": 1 / 2,
            "user_titles": 1 / 2,
            "user_valid": 1.0,
            "user_words": 9 / 2,
            "recommender_in_role": 1 / 2,
            "recommender_titles": 3 / 2,
            "recommender_valid": 2 / 3,
            "recommender_words": 12 / 2,
            "turns": 4 / 2,
            "ends_user_left": 1 / 2,
            "ends_max_turns": 1 / 2,
        }
    )
    table = prompts.formatted(measured).splitlines()
    assert table[0] == "| measure | prompted | untold |"
    assert table[2].startswith("| user: share of turns in role | 0.50")
    assert table[2].endswith("| – |")
    assert len(table) == 2 + measured.height


def test_silence_has_no_words_and_is_out_of_role() -> None:
    measured = prompts.figures("untold", *talk({"a.0": ["R: ", "U: hi"]}), MOVIES)
    assert dict(measured.select("measure", "value").iter_rows()) == {
        **{"user_in_role": 1.0, "user_titles": 0.0, "user_words": 1.0},
        **{"recommender_in_role": 0.0, "recommender_titles": 0.0, "turns": 2.0, "ends_user_left": 1.0},
    }


def test_the_command_names_what_it_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[SimulationParameters] = []

    def measure(parameters: SimulationParameters, n: int, folder: Path, progress: object) -> tuple[pl.DataFrame, int]:
        given.append(parameters)
        return prompts.figures("untold", *talk({"a.0": ["U: hi"]}), MOVIES), n

    monkeypatch.setattr(prompts, "measure", measure)
    said = CliRunner().invoke(
        main, ["bench", "prompts", "--profiles", "3", "--to", str(tmp_path), "-p", "max_turns=4"]
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    assert (given[0].max_turns, given[0].n_ctx) == (4, 2048)
    assert "| user: share of turns in role | – | 1.00 |" in said.output
    assert "3 dialogues failed and are left out" in said.output
