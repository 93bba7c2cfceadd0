"""A view as token ids, through the model's own chat template.

Text never becomes a control token: no message text passes through the template, and only the template's own text is
tokenized with control tokens.
"""

import re
from collections.abc import Sequence
from typing import Protocol

from jinja2 import TemplateError
from jinja2.exceptions import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from crslib.dialogue.views import Message
from crslib.errors import CrsError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


# ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Tokenizer(Protocol):
    """The part of an engine that turns text into token ids."""

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Token ids of `text`; control tokens are recognised only with `control`."""
        ...


class ChatTemplate:
    """A model's own chat template (Jinja), rendered around messages whose text it never sees."""

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        self.source = source or CHATML
        self._specials = {"bos_token": bos, "eos_token": eos}
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda _format: ""  # a date in the prompt would not be reproducible
        try:
            self._template = environment.from_string(self.source)
        except TemplateSyntaxError as error:
            raise CrsError(
                f"the model's chat template is not valid Jinja ({error.message}); use another GGUF"
            ) from None

    def _render(self, messages: Sequence[Message]) -> str:
        # Private-use characters stand for the texts; `one_line` removes them from all text of people, models and data.
        stand_ins = [{"role": m.role, "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
        return self._template.render(messages=stand_ins, add_generation_prompt=True, **self._specials)

    def encode(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """Token ids of the view, up to where the party's next utterance begins.

        If the template has no system role or does not let the assistant begin, the system text becomes the beginning of
        the first user message. Raises `CrsError` when the template refuses that too.
        """
        messages = list(messages)
        try:
            rendered = self._render(messages)
        except TemplateError:
            messages = _without_system(messages)
            try:
                rendered = self._render(messages)
            except TemplateError as error:
                raise CrsError(f"the model's chat template refuses this dialogue ({error}); use another GGUF") from None
        ids: list[int] = []
        for piece in re.split(r"(\ue000\d+\ue001)", rendered):
            if piece.startswith("\ue000"):
                message = messages[int(piece[1:-1])]
                ids += tokenizer.encode(message.text) if message.ids is None else message.ids
            elif piece:
                ids += tokenizer.encode(piece, control=True)
        return ids


def _raise(message: str) -> None:
    raise TemplateError(message)


def _without_system(messages: Sequence[Message]) -> list[Message]:
    first, *rest = messages
    if rest and rest[0].role == "user":
        return [Message("user", f"{first.text}\n\n{rest[0].text}"), *rest[1:]]
    return [Message("user", first.text), *rest]
