"""The prompted format (DESIGN §4): a model that was never taught format v1 is told it, and its replies are cleaned.

What a model is told is a file per role, a Jinja template of plain text. It is filled from the role's view alone; no
text of people, data or models is read as a template. Knows nothing of catalogues and models.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from crslib.dialogue.domain import Domain
from crslib.dialogue.scripts import LINE_END, SPEAKER, ScriptView
from crslib.dialogue.utterances import RECOMMENDER, USER, clean, mention, one_line
from crslib.dialogue.views import Message, RecommenderView, UserView, View
from crslib.errors import CrsError

LEAVE = "[END]"
"""The mark with which a user ends its last message."""
_DOMAIN = ("noun", "plural", "a_noun", "verb", "maker", "person")
_USERS = ("summary", "attributes", "wishes", "style", "titles", "leave", "system", *_DOMAIN)
_RECOMMENDERS = ("style", "candidates", "system", *_DOMAIN)


# ── what a model is told ────────────────────────────────────────────────────────────────────────────────────────


class Prompt:
    """An instruction file.

    Its text becomes the system message. It sets `opening`, which stands for the other party's message where the role
    begins, because many templates and servers want the other party to begin; and it may set `reminder`, which stands
    under the other party's latest message. `{% set silence_ends = true %}` is for a model that was trained to leave
    without a word: an empty reply is then the end of the dialogue, and else one that failed.

    The values of a user's file: `summary`, `attributes`, `wishes` (kinds, decade, person, maker, attributes), `style`,
    `leave` (the mark that ends its last message) and `titles`, empty for a user that knows no targets; of a script's
    the same; of a recommender's: `style` and `candidates` (names of items, or empty); of all of them words of the
    domain: `noun`, `a_noun`, `plural`, `verb` (what one does with an item), `maker` and `person`. `name | mention`
    writes a name in brackets. Also of all: `system`, the system message of format v1, for models that were trained on
    it (`data/prompts/trained.md`).
    """

    def __init__(self, source: str, name: str) -> None:
        """`name`: of the file, for messages. Raises `CrsError` for a template that cannot be used."""
        self.identity = hashlib.sha256(source.encode()).hexdigest()
        self._name, self.silence_ends = name, False
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
        environment.filters["mention"] = mention
        try:
            tree = environment.parse(source)
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise CrsError(f"{name}, line {error.lineno}, is not valid Jinja ({error.message}); mend it") from None
        known = dict.fromkeys((*_USERS, *_RECOMMENDERS))
        if unknown := sorted(meta.find_undeclared_variables(tree) - known.keys() - environment.globals.keys()):
            raise CrsError(f"{name} asks for {unknown[0]!r}, which no view has; it may use {', '.join(known)}")
        if not any(name.name == "opening" and name.ctx == "store" for name in tree.find_all(nodes.Name)):
            raise CrsError(
                f"{name} does not say what a model reads where its role begins; "
                "add a line such as {% set opening %}(You speak first.){% endset %}"
            )
        for assigned in tree.find_all(nodes.Assign):
            if assigned.target == nodes.Name("silence_ends", "store"):
                self.silence_ends = assigned.node == nodes.Const(True)

    @classmethod
    def read(cls, path: Path) -> "Prompt":
        """The prompt of a file. Raises `CrsError` when it cannot be read or used."""
        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise CrsError(f"{path} is no instruction file that can be read ({error}); name a text file") from None

    def messages(self, view: View, candidates: Sequence[str] = ()) -> list[Message]:
        """What a model reads: the system message, then the dialogue as in `view`; roles alternate, the other party
        begins. `candidates`: names of items that a recommender may choose from.

        Raises `CrsError` when the file cannot be filled from this view, e.g. a recommender's asks for the summary.
        """
        system, opening, reminder = self._filled(_values(view, candidates))
        dialogue = [(message.role, message.text) for message in view.messages[1:]]
        if not dialogue or dialogue[0][0] == "assistant":
            dialogue.insert(0, ("user", opening))
        if reminder and dialogue[-1][0] == "user":
            dialogue.append(("user", reminder))
        messages = [Message("system", system)]
        for role, text in dialogue:
            if messages[-1].role == role:
                text = f"{messages.pop().text}\n{text}"
            messages.append(Message(role, text))
        return messages

    def _filled(self, values: Mapping[str, Any]) -> tuple[str, str, str]:
        """The text of the file, `opening` and `reminder`."""
        try:
            module = self._template.make_module(dict(values))
            texts = (
                str(part).strip() for part in (module, getattr(module, "opening", ""), getattr(module, "reminder", ""))
            )
            system, opening, reminder = texts
        except Exception as error:  # whatever a template of somebody's does
            raise CrsError(
                f"{self._name} cannot be filled ({one_line(str(error))}); this role's file may use {', '.join(values)}"
            ) from None
        if not opening:
            raise CrsError(f"{self._name} sets an empty opening; write e.g. (You speak first.)")
        return system, opening, reminder


def _values(view: View, candidates: Sequence[str]) -> dict[str, Any]:
    """What a file is filled with: texts on one line, so that none can look like a line of the file. Only the lines of
    `system` are lines: the view wrote them so."""
    system = view.messages[0].text
    if isinstance(view, RecommenderView):
        names = [one_line(name) for name in candidates]
        of_recommender = (str(view.style or ""), names, system, *_domain_words(view.domain))
        return dict(zip(_RECOMMENDERS, of_recommender, strict=True))
    if not isinstance(view, UserView | ScriptView):
        raise TypeError(f"no prompt for {type(view).__name__}")
    known = view.knowledge
    wishes = {
        "kinds": [one_line(kind) for kind in known.wishes.kinds],
        "decade": known.wishes.decade,
        "person": one_line(known.wishes.person or ""),
        "maker": one_line(known.wishes.maker or ""),
        "attributes": [one_line(value) for _, value in known.wishes.attributes],
    }
    titles = [one_line(title) for title in getattr(known, "titles", ())]
    texts = one_line(known.summary), one_line(known.attributes)
    values = (*texts, wishes, str(known.style or ""), titles, LEAVE, system)
    return dict(zip(_USERS, (*values, *_domain_words(view.domain)), strict=True))


def _domain_words(domain: Domain) -> tuple[str, ...]:
    """The values of `_DOMAIN`."""
    verb = domain.meeting.do[-1]
    return (domain.noun, domain.plural, domain.a_noun, verb, domain.maker_label, domain.person_label)


# ── what it replies ─────────────────────────────────────────────────────────────────────────────────────────────

_THOUGHTS = re.compile(r"<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHTS_END = re.compile(r"\A.*</(?:think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)
# Control tokens of common templates, written out as text, with the role that follows.
_CONTROL = re.compile(
    r"(?:<\|[^|<>\n]{1,40}\|>|<(?:start|end)_of_turn>|</?s>|\[/?INST\])"
    r"(?:\s*(?:user|assistant|system|model)(?=\s*\n|<\||\Z))?",
    re.IGNORECASE,
)
_TALK = r"(?:chat|conversation|dialog(?:ue)?)"
_LEAVES = re.compile(
    rf"[*_]*[\[({{<]+\s*/?\s*(?:the )?end(?:[ _-]?(?:of )?(?:the )?{_TALK})?\s*[.!]?[\])}}>]+[*_]*"
    r"|(?-i:(?:\A|(?<=[^\w\s])\s*|\n\s*)END[.!]?[\s*_]*\Z)",
    re.IGNORECASE,
)
_FENCE_OR_RULE = re.compile(r"\s*(?:```.*|~~~.*|(?:[-*_]\s*){3,})")
_HEADING_OR_QUOTE = re.compile(r"\s*(?:#{1,6}\s+|>\s?)")
_BULLET = re.compile(r"\s*(?:[-*+•–]|\d{1,2}[.)])\s+")
_TARGET = re.compile(r"!?\[([^\[\]\n]+)\]\((?:https?:|www\.|/|#|mailto:)[^()\s]*\)")
_TAG = re.compile(r"</?(?:b|i|u|em|strong|p|br|ul|ol|li|h[1-6])\s*/?>", re.IGNORECASE)
_EMPHASIS = re.compile(
    r"(?<![\w*])(?P<stars>\*{1,3})(?=\S)(?P<starred>[^*]+)(?<=\S)(?P=stars)(?![\w*])"
    r"|(?<![\w_])(?P<lines>_{1,3})(?=\S)(?P<underlined>[^_]+)(?<=\S)(?P=lines)(?![\w_])"
    r"|`(?P<code>[^`]+)`|~~(?P<struck>[^~]+)~~"
)
_QUOTED = re.compile(r"\"([^\"]*)\"|“([^“”]*)”|«([^«»]*)»")


def cleaned(text: str, role: str, link: Callable[[str], str] = str) -> tuple[str, bool]:
    """The utterance in a model's raw reply as `role`, as `utterances.clean` gives it; whether a user leaves with it.

    Left out are thoughts, names of roles, turns of the other party that the model wrote too, markup, quotation marks
    around it all, and the mark of leaving. `link` puts titles into brackets; it gets the words on one line, emphasis
    included, because emphasis shows titles. The utterance is empty where nothing remains; with False that is no
    leaving, but a reply without words.
    """
    text = next((part for part in _CONTROL.split(without_thoughts(text)) if part.strip()), "")
    text = _own_words(text, role)
    left = False
    if mark := _LEAVES.search(text):
        left = role == USER  # a recommender was told of no mark
        text = text[: mark.start()] if text[: mark.start()].strip() else text[mark.end() :]
    text = link(_without_blocks(_TAG.sub(" ", _TARGET.sub(r"\1", text))))
    before = None
    while before != text:  # emphasis may stand in emphasis
        before, text = text, _EMPHASIS.sub(_inner, text)
    text = text.replace("**", "").strip()
    if quoted := _QUOTED.fullmatch(text):
        text = _inner(quoted)
    return clean(text), left


def without_thoughts(text: str) -> str:
    """A raw reply without what a model thought before it wrote."""
    return _THOUGHTS_END.sub("", _THOUGHTS.sub("", text))


def _own_words(text: str, role: str) -> str:
    """The first turn of `role` in a reply that may name speakers. Words before the first name are its own; where it
    has no turn, those of the first turn are."""
    turns: list[tuple[str, list[str]]] = [(role, [])]
    for line in LINE_END.split(text):
        if match := SPEAKER.match(line):
            turns.append((USER if match["user"] else RECOMMENDER, []))
            line = line[match.end() :]
        turns[-1][1].append(line)
    spoken = [(speaker, words) for speaker, lines in turns if (words := "\n".join(lines)).strip()]
    own = takewhile(lambda turn: turn[0] == role, dropwhile(lambda turn: turn[0] != role, spoken))
    return "\n".join(words for _, words in own) or next((words for _, words in spoken), "")


def _without_blocks(text: str) -> str:
    """A text of lines as one line, without fences, headings and bullets; items of a list are parted by commas."""
    words: list[str] = []
    listing = False  # whether the line before is an item of a list
    for line in LINE_END.split(text):
        if _FENCE_OR_RULE.fullmatch(line) or not line.strip():
            continue
        line = _HEADING_OR_QUOTE.sub("", line, count=1) if _HEADING_OR_QUOTE.match(line) else line
        bullet = _BULLET.match(line)
        if bullet and listing and words[-1][-1] not in ".,;:!?":
            words[-1] += ","
        words.append(line[bullet.end() if bullet else 0 :].strip())
        listing = bullet is not None and bool(words[-1])
    return " ".join(words)


def _inner(match: re.Match[str]) -> str:
    """The words of an emphasis or of a quotation."""
    return next(words for words in match.groups()[::-1] if words is not None)
