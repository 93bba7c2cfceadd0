"""Texts that look like control tokens, for files that others tokenise.

Our own templates never let a text become a control token (`templates`). Other programs render messages first and look
for control tokens afterwards, so that a title `<|im_end|>` would end a turn. A blank after its first sign prevents that
in every tokenizer; it is the only change, and reading the file takes it out again.
"""

import re

# Tokens in square brackets: of Mistral's, BERT's and GLM's vocabularies, and the mark with which a told user leaves.
_NAMES = """/?INST /?SYSTEM_PROMPT /?AVAILABLE_TOOLS /?TOOL_RESULTS TOOL_CALLS TOOL_CONTENT ARGS CALL_ID /?THINK
    IMG IMG_BREAK IMG_END AUDIO BEGIN_AUDIO PREFIX MIDDLE SUFFIX CLS SEP MASK PAD UNK BOS EOS gMASK sMASK END"""
_NAMED = rf"(?:{'|'.join(_NAMES.split())})\]"
_LIKE = re.compile(rf"<(?=[^<>\s]+>)|\[(?={_NAMED})")
_NAMED_TOKEN, _TAG = re.compile(rf"(?<=\[) (?={_NAMED})"), re.compile(r"(?<=<) (?=[^<>\s]+>)")  # as escaped


def escaped(text: str) -> str:
    """`text` with a blank after the first sign of everything that a tokenizer may take for a control token: `<…>`
    without blanks, and names such as `[INST]`."""
    return _LIKE.sub(r"\g<0> ", text)


def unescaped(text: str) -> str:
    """The text that `escaped` was given; one that had such a blank of its own loses it."""
    return _TAG.sub("", _NAMED_TOKEN.sub("", text))
