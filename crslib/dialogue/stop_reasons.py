"""Why a dialogue ended, in words: the reasons in column `stop_reason` of table `dialogues`."""

from collections.abc import Mapping

STOP_REASONS: Mapping[str, str] = {
    "user_left": "the user left",
    "recommender_left": "the recommender left",
    "max_turns": "the turn limit was reached (max_turns)",
    "repetition": "one party said the same three times",
    "context_full": "a model's context was full (n_ctx)",
    "script_ended": "the script ended",
    "not_recorded": "why it ended was not recorded",
    "script_cut": "the script was cut at its length limit",
}


def stop_sentence(reason: str) -> str:
    """The reason as a sentence: `The user left.`"""
    text = STOP_REASONS[reason]
    return f"{text[0].upper()}{text[1:]}."
