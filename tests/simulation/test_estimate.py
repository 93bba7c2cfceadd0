"""What a run would ask of servers."""

import pytest

from crslib.config import SimulationParameters
from crslib.simulation.estimate import HUMAN_WORDS, SUMMARY_WORDS, TOKENS_PER_WORD, expected


def test_nothing_is_asked_of_a_model_of_this_machine() -> None:
    assert expected(SimulationParameters(user_model="agenda"), 10) == {}


def test_every_request_has_the_instructions_and_the_dialogue_before_it() -> None:
    parameters = SimulationParameters(
        user_model="openai:m@http://localhost/v1", user_prompt="", max_turns=6, dialogues_per_profile=2, price_in=10.0
    )
    user = expected(parameters, 5)["user"]
    # Ten dialogues with three turns of the user, before which 0, 2 and 4 turns were said.
    words = 10 * (3 * SUMMARY_WORDS + (0 + 2 + 4) * HUMAN_WORDS)
    assert user["requests"] == 30
    assert user["tokens_in"] == round(TOKENS_PER_WORD * words)
    assert user["tokens_out"] == round(TOKENS_PER_WORD * 30 * HUMAN_WORDS)
    assert user["price"] == pytest.approx(user["tokens_in"] * 10 / 1e6)


def test_a_script_is_one_request() -> None:
    from crslib.config import RunParameters

    parameters = RunParameters.parse(
        {"baseline": "scripted", "max_turns": 6, "user_model": "openai:m@http://localhost/v1", "recommender_model": "x"}
    )
    (script,) = expected(parameters, 5).values()
    assert script["requests"] == 5
    assert script["tokens_out"] == round(TOKENS_PER_WORD * 5 * 6 * HUMAN_WORDS)
