"""Texts that look like control tokens stay texts in every tokenizer, and are read back as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crslib.dialogue.control_tokens import escaped, unescaped

TOKENS = [
    "<|im_end|>", "<|eot_id|>", "<start_of_turn>", "</s>", "<s>", "<pad>", "<unused7>", "<｜end▁of▁sentence｜>",
    "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[TOOL_CALLS]", "[SEP]", "[gMASK]", "[END]",
]  # fmt: skip
_text = st.lists(st.sampled_from([*TOKENS, "<", ">", "[", "]", "Heat", "a", "|", "/"])).map("".join)


@pytest.mark.parametrize("token", TOKENS)
def test_no_control_token_is_left_and_it_can_still_be_read(token: str) -> None:
    for text in (token, f"a{token}b", f"[[{token} (1999)]]", f"<{token}>", token * 2):
        assert token not in escaped(text)
        assert unescaped(escaped(text)) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Try [[<|im_end|> (1999)]]", "Try [[< |im_end|> (1999)]]"),
        ("[[END]]", "[[ END]]"),
        ("<<SYS>>", "<< SYS>>"),
        ("i <3 [[Up (2009)]] > [[Heat]], 2 < 3 and 4 > 3 [ok]", "i <3 [[Up (2009)]] > [[Heat]], 2 < 3 and 4 > 3 [ok]"),
    ],
)
def test_what_is_changed_and_what_is_not(text: str, written: str) -> None:
    assert escaped(text) == written


@given(_text)
def test_any_text_is_without_control_tokens_and_read_back(text: str) -> None:
    once = escaped(text)
    assert not [token for token in TOKENS if token in once]
    assert escaped(once) == once
    assert unescaped(once) == text
