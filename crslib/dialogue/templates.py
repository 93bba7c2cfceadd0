"""A view as token ids, through the model's own chat template.

Text never becomes a control token: no message text passes through the template, and only the template's own text is
tokenized with control tokens. Every text of a view comes out of the template once, or the model is refused.
"""

import datetime
import functools
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from crslib.dialogue.views import Message
from crslib.errors import CrsError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MOST_STEPS = 50_000
"""Passes of loops, calls and written characters that a template may take; real ones take a few thousand."""
_TODAY = datetime.date(2024, 7, 26)  # what Llama 3 assumes where no date is given; a prompt must not change by the day
_STAND_IN = re.compile(r"\ue000(\d+)\ue001")


class Tokenizer(Protocol):
    """The part of an engine that turns text into token ids."""

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Token ids of `text`; control tokens are recognised only with `control`."""
        ...


class ChatTemplate:
    """A model's own chat template (Jinja), rendered around messages whose text it never sees.

    It gets the variables that transformers would pass, without tools, and is told not to think (`enable_thinking`). An
    empty `source` is ChatML. `add_bos`: whether the vocabulary wants the token `bos` to begin every prompt; it is put
    there if the template does not.

    A template may move the system text, as some of Mistral's do: it stands before the last message. That costs speed:
    the prompt changes before its end with every turn, so all that follows is fed again.
    """

    def __init__(self, source: str, bos: str = "", eos: str = "", add_bos: bool = False) -> None:
        self.source = source or CHATML
        self.sha256 = hashlib.sha256(source.encode()).hexdigest()
        self._bos, self._eos, self._add_bos = bos, eos, add_bos
        self._environment = _Sandbox()
        self._forms: dict[tuple[str, ...], tuple[bool, list[str | int]]] = {}  # by the roles of the messages
        try:
            self._template = self._environment.bounded(self.source)
        except Exception as error:  # whatever a compiler raises for a text that somebody else wrote
            raise CrsError(f"the model's chat template is not valid Jinja ({_line(error)}); use another GGUF") from None

    def encode(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """Token ids of the view, up to where the party's next utterance begins.

        A template that loses texts is given them as lists of parts; if it has no system role or does not let the
        assistant begin, the system text becomes the beginning of the first user message. Raises `CrsError` when the
        template fails, or loses, repeats or reorders texts in every way.
        """
        roles = tuple(message.role for message in messages)
        if roles not in self._forms:
            self._forms[roles] = self._form(roles)
        merged, form = self._forms[roles]
        texts = without_system(messages) if merged else messages
        ids: list[int] = []
        for piece in form:
            if isinstance(piece, str):
                ids += tokenizer.encode(piece, control=True)
            else:
                message = texts[piece]
                ids += tokenizer.encode(message.text) if message.ids is None else message.ids
        return self._begun(ids, tokenizer)

    def _begun(self, ids: list[int], tokenizer: Tokenizer) -> list[int]:
        """`ids` with one begin token before them, where the vocabulary wants one."""
        begin = tokenizer.encode(self._bos, control=True) if self._add_bos and self._bos else []
        n = len(begin)
        if n and ids[:n] != begin:
            return begin + ids
        while n and ids[n : 2 * n] == begin:
            del ids[:n]
        return ids

    def _form(self, roles: Sequence[str]) -> tuple[bool, list[str | int]]:
        """Whether the system text is part of the first user message, and the prompt: literal text and message numbers.

        Rendered once for each sequence of roles: with the texts left out, all views of these roles are alike.
        """
        placeholders = [Message(role, str(number)) for number, role in enumerate(roles)]
        fault = ""
        for merged in (False, True) if roles[:1] == ("system",) else (False,):
            shape = [message.role for message in (without_system(placeholders) if merged else placeholders)]
            for parts in (False, True):
                try:
                    pieces = _STAND_IN.split(self._render(shape, parts))
                except Exception as error:  # a template can raise anything that Python does
                    found = f"refuses this dialogue ({_line(error)})"
                else:
                    if not (found := _lost([int(number) for number in pieces[1::2]], shape)):
                        form = [int(one) if place % 2 else one for place, one in enumerate(pieces) if one]
                        return merged, form
                fault = fault if parts else found
        raise CrsError(f"the model's chat template {fault}; use a GGUF with another one (gguf-new-metadata writes it)")

    def _render(self, roles: Sequence[str], parts: bool) -> str:
        # Private-use characters stand for the texts; `one_line` removes them from all text of people, models and data.
        texts = [f"\ue000{number}\ue001" for number in range(len(roles))]
        contents: list[Any] = [[{"type": "text", "text": text}] if parts else text for text in texts]
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        self._environment.steps = 0
        return self._template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=True,
            enable_thinking=False,
            bos_token=self._bos,
            eos_token=self._eos,
        )


def _lost(found: Sequence[int], roles: Sequence[str]) -> str:
    """What is wrong with the texts of a prompt, which has the messages `found`; empty if nothing is.

    The system text may stand anywhere, the others keep their order.
    """
    names = [f"the text of message {number} ({role})" for number, role in enumerate(roles, 1)]
    if roles[:1] == ["system"]:
        names[0] = "the system text"
    for number, name in enumerate(names):
        if number not in found:
            return f"loses {name}"
        if found.count(number) > 1:
            return f"says {name} {found.count(number)} times"
    said = [number for number in found if roles[number] != "system"]
    return "" if said == sorted(said) else "changes the order of the messages"


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The messages with the system text at the beginning of the first user message."""
    first, *rest = messages
    if rest and rest[0].role == "user":
        return [Message("user", f"{first.text}\n\n{rest[0].text}"), *rest[1:]]
    return [Message("user", first.text), *rest]


# ── Jinja as chat templates use it ──────────────────────────────────────────────────────────────────────────────


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja with what transformers adds for chat templates, and an end to the work that a template can make.

    Every pass of a loop, every call and every character of a value that is written is a step, and no value that is
    computed grows beyond `MOST_STEPS` characters or items.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
        self.steps = 0
        del self.globals["lipsum"]  # random words
        self.globals |= {"raise_exception": _raise, "strftime_now": _TODAY.strftime}
        self.filters["tojson"] = _to_json
        self.filters = {name: self._limited(function) for name, function in self.filters.items()}

    def bounded(self, source: str) -> Template:
        """The template of `source`, with a check of what its loops run over, what it joins and what it writes."""
        tree = self.parse(source)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = _through("passes", loop.iter)
        for joined in list(tree.find_all(nodes.Concat)):
            joined.nodes = [_through("sized", one) for one in joined.nodes]
        for output in list(tree.find_all(nodes.Output)):
            output.nodes = [
                _through("written", one)
                if isinstance(one, nodes.Expr) and not isinstance(one, nodes.TemplateData)
                else one
                for one in output.nodes
            ]
        return self.from_string(tree)

    def call(self, context: Context, function: Any, /, *arguments: Any, **named: Any) -> Any:
        self._spend(1)
        _check_numbers(*arguments, *named.values())
        return self.sized(super().call(context, function, *arguments, **named))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator in ("*", "**"):
            _check_numbers(left, right)
        if operator == "**":
            raise TemplateError("it computes a power")
        return self.sized(super().call_binop(context, operator, left, right))

    def passes(self, values: Any) -> list[Any]:
        """What a loop runs over."""
        passed = []
        for value in values:
            self._spend(1)
            passed.append(value)
        return passed

    def written(self, value: Any) -> Any:
        """A value that becomes text of the prompt."""
        self._spend(len(value) if isinstance(value, str) else 1)
        return value

    def sized(self, value: Any) -> Any:
        """A value that is computed."""
        if isinstance(value, str | list | tuple | range) and len(value) > MOST_STEPS:
            raise TemplateError("it makes too large a value")
        return value

    def _limited(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # with the marks of those that take the environment or the context
        def limited(*arguments: Any, **named: Any) -> Any:
            _check_numbers(*arguments, *named.values())
            return self.sized(function(*arguments, **named))

        return limited

    def _spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise TemplateError(f"it does not end within {MOST_STEPS} steps")


def _through(method: str, expression: Any) -> nodes.Expr:
    """A call of a method of the environment, which a template cannot replace, with the value of an expression."""
    return nodes.Call(nodes.EnvironmentAttribute(method), [expression], [], None, None)


def _check_numbers(*values: Any) -> None:
    """A number may be the length of a value."""
    if any(isinstance(value, int) and abs(value) > MOST_STEPS for value in values):
        raise TemplateError("it computes with too large a number")


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks what a model is trained on; a prompt has it as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """As transformers' filter: without escapes for HTML."""
    known = {name: options[name] for name in ("separators", "sort_keys") if name in options}
    return json.dumps(value, ensure_ascii=False, indent=indent, **known)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _line(error: Exception) -> str:
    """What an error says, in one line."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, TemplateError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
