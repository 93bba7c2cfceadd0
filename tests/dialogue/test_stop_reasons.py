"""Stop reasons in words."""

from crslib.dialogue.stop_reasons import STOP_REASONS, stop_sentence


def test_every_reason_is_a_sentence() -> None:
    assert stop_sentence("user_left") == "The user left."
    assert stop_sentence("context_full") == "A model's context was full (n_ctx)."
    assert all(stop_sentence(reason)[0].isupper() for reason in STOP_REASONS)
