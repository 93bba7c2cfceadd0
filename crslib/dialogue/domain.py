"""What the talk is about, as one file per domain: its words, and nothing that is code.

Films are one domain and books another: what an item is called, how it is met (seen, read), who makes it, how time is
said, which attributes may be asked for, and the words of kinds, claims and questions. Grammar stays in the modules that
read and write utterances; they get a `Domain` and nothing else from outside. Words of a file are words: they are
checked to be letters, digits and blanks where a pattern is built of them, and texts have placeholders of known names
only.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from crslib import yaml_files
from crslib.config import resolve
from crslib.dialogue.utterances import one_line
from crslib.errors import CrsError
from crslib.files import writing
from crslib.store import Run

FOLDER = resolve("data/domains")
NAME = "domain.json"  # of the file in a run's folder
NAMES = r"^[a-z0-9][a-z0-9-]{0,39}$"
FIRST = "movies"  # the domain of all that was made before there were others
MOST_LETTERS = 20  # of a label, because it also stands for a title where titles are masked
_PLACEHOLDER = re.compile(r"\{(\w*)\}")


# ── parts of a file ─────────────────────────────────────────────────────────────────────────────────────────────────


def _text(text: str) -> str:
    if not text.strip() or one_line(text) != text.strip() or re.search(r"\[\[|\]\]|<\|", text):
        raise ValueError(f"{text!r} is not one line of plain text")
    return text


def _word(word: str) -> str:
    if not re.fullmatch(r"[^\W_]+(?: [^\W_]+)*", word) or word != word.lower():
        raise ValueError(f"{word!r} is not a word, or several between single blanks, of small letters and digits")
    return word


def _label(word: str) -> str:
    if not re.fullmatch(r"[^\W_]+", _word(word)) or len(word) > MOST_LETTERS:
        raise ValueError(f"{word!r} is not one word of at most {MOST_LETTERS} letters")
    return word


def _kind_word(word: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+(?:['-][a-z0-9]+)*\??", word):
        raise ValueError(f"{word!r} is not one word of small letters and digits, with or without `?` behind it")
    return word


def _note(words: str) -> str:
    if not re.fullmatch(r"[^\W_]+(?: [^\W_]+)*", words):
        raise ValueError(f"{words!r} is not a word, or several between single blanks")
    return words


def _with(*names: str) -> AfterValidator:
    """A text that has each of the placeholders `names` once, and no others."""

    def check(text: str) -> str:
        _text(text)
        if sorted(_PLACEHOLDER.findall(text)) != sorted(names) or len(re.findall(r"[{}]", text)) != 2 * len(names):
            wanted = f"{' and '.join(f'{{{name}}}' for name in names)} once and nothing else" if names else "nothing"
            raise ValueError(f"{text!r} needs {wanted} in braces")
        return text

    return AfterValidator(check)


Text = Annotated[str, AfterValidator(_text), _with()]
Word = Annotated[str, AfterValidator(_word)]
Words = tuple[Word, ...]
Some = Annotated[Words, Field(min_length=1)]
Valued = Annotated[str, _with("value")]
Listed = Annotated[str, _with("values")]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Meeting(_Part):
    """Verbs of having met an item: seen and watched a film, read a book, been to a place."""

    do: Some
    done: Some
    did: Some
    doing: Words = ()
    again: Words = ()
    also: Words = ()
    missed: Words = ()

    @property
    def past(self) -> Words:
        """`did` and `done`."""
        return _union(self.did, self.done)

    @property
    def forms(self) -> Words:
        """`do`, `done` and `did`."""
        return _union(self.do, self.done, self.did)

    @property
    def plans(self) -> Words:
        """`do` and `also`: what one may plan."""
        return _union(self.do, self.also)


class NoteWords(_Part):
    """What the user privately remembers or thinks of an item, in a line of its view."""

    met: Annotated[str, AfterValidator(_note)]
    unmet: Annotated[str, AfterValidator(_note)]
    liked: Annotated[str, AfterValidator(_note)]
    disliked: Annotated[str, AfterValidator(_note)]
    interested: Annotated[str, AfterValidator(_note)]
    uninterested: Annotated[str, AfterValidator(_note)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        values = list(self.model_dump().values())
        if len(set(values)) < len(values):
            raise ValueError("two notes have the same words; give six different ones")
        return self


class System(_Part):
    """First lines of the system messages, and what the title model reads where there is no dialogue."""

    user: Text
    recommender: Text
    script: Text
    request: Text
    asks: Text

    @model_validator(mode="after")
    def _tell_the_roles_apart(self) -> Self:
        if len({self.user, self.recommender, self.script}) < 3:
            raise ValueError("two of user, recommender and script are the same; word them differently")
        return self


class Summary(_Part):
    """Sentences of a preference summary; a part that is left out is not said.

    `n_loved`: how often a summary names none, one, two or three loved items (any unit).
    """

    kinds: Annotated[str, _with("kinds", "decade")]
    decade: Valued
    loved: Listed
    n_loved: tuple[Share, Share, Share, Share] = (0, 0, 0, 1)
    makers: Listed
    disliked: Listed
    kind_disliked: Valued
    decade_alone: Valued | None = None
    attributes: Mapping[str, Listed] = {}

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not any(self.n_loved):
            raise ValueError("n_loved is 0 throughout; say how often a summary names none, one, two or three items")
        return self


class Shape(_Part):
    """What people ask for: a number of kinds, a further attribute or none, and how often (any unit)."""

    kinds: int = Field(ge=0, le=3)
    further: str = ""
    share: float = Field(gt=0)


class Wish(_Part):
    """Which attributes may be asked for, and how each is said; what is left out is never asked for."""

    kinds: Listed
    decade: Valued | None = None
    person: Valued | None = None
    maker: Valued | None = None
    attributes: Mapping[str, Valued] = {}
    shapes: tuple[Shape, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _askable(self) -> Self:
        if reserved := {"kind", "decade", "person", "maker"} & set(self.attributes):
            raise ValueError(f"{min(reserved)!r} is no further attribute; give it another name")
        known = [name for name in ("decade", "person", "maker") if getattr(self, name)] + list(self.attributes)
        for shape in self.shapes:
            if shape.further and shape.further not in known:
                raise ValueError(f"a shape has {shape.further!r}, for which wish has no phrase")
            if not shape.kinds and not shape.further:
                raise ValueError("a shape asks for nothing; give it kinds or a further attribute")
        return self


class Time(_Part):
    """How the time of an item is said: by its decade, by its year, or not at all."""

    said: Literal["decade", "year", "none"] = "decade"
    centuries: tuple[Annotated[int, Field(ge=10, le=20)], ...] = Field((19, 20), min_length=1)
    recent: Words = ()
    old: int = 1985

    @property
    def span(self) -> int:
        """Years of what is said: 10 or 1; 0 where time is not said."""
        return {"decade": 10, "year": 1, "none": 0}[self.said]


class Claims(_Part):
    """Words by which a turn states who made an item, who is in it and when it appeared."""

    here: Words = ()
    works: Some
    made: Words = ()
    maker: Words = ()
    makes: Words = ()
    played: Words = ()
    stars: Words = ()
    features: Words = ()
    people: Words = ()
    person: Words = ()
    plays: Words = ()
    released: Words = ()
    other_work: Words = ()
    no_names: Words = ()


class Questions(_Part):
    """Words by which a turn asks who made an item or is in it, what it is about and when it appeared."""

    who_does: Words = ()
    who_is: Words = ()
    people: Words = ()
    here: Words = ()
    kinds: Words = ()
    made: Words = ()


# ── a domain ────────────────────────────────────────────────────────────────────────────────────────────────────────


class ItemFiles(_Part):
    """How files of items are read when they are imported; no dialogue depends on it.

    `kinds`: what files call a kind → the kind, empty for what is none. `external_id`: the form of an id of which files
    have the number alone, such as tt0000000. `series`: whether titles end with it, `Salt (The Salt Games, #1)`.
    """

    kinds: Mapping[str, str] = {}
    external_id: Annotated[str, Field(pattern=r"^([A-Za-z]*0+)?$")] = ""
    series: bool = True

    def identified(self, external_id: str | None) -> str | None:
        """An external id in its form: 113277 as tt0113277."""
        if not self.external_id or not external_id or not external_id.isdigit():
            return external_id
        prefix = self.external_id.rstrip("0")
        return f"{prefix}{external_id:0>{len(self.external_id) - len(prefix)}}"


class Domain(_Part):
    """A domain file. `data/domains/movies.yaml` says what each field is for."""

    name: Annotated[str, Field(pattern=NAMES)]
    noun: Text
    plural: Text
    article: Literal["a", "an"] = "a"
    label: Annotated[str, AfterValidator(_label)]
    labels: Word
    words: Some
    slang: Words = ()
    meeting: Meeting
    notes: NoteWords
    system: System
    summary: Summary
    wish: Wish
    time: Time = Time()
    kind_label: Word
    maker_label: Word
    person_label: Word
    kinds: Mapping[str, tuple[Annotated[str, AfterValidator(_kind_word)], ...]] = {}
    common: Words = ()
    many: Words = ()
    cues: Words = ()
    claims: Claims
    questions: Questions = Questions()
    agenda: Mapping[str, tuple[str, ...]] = {}
    files: ItemFiles = ItemFiles()

    @model_validator(mode="before")
    @classmethod
    def _words_of_kinds(cls, values: Any) -> Any:
        """The words of a kind may be one text with blanks between them; those of any list too."""
        kinds = values.get("kinds") if isinstance(values, dict) else None
        if not isinstance(kinds, dict):
            return values
        split = {kind: tuple(words.split()) if isinstance(words, str) else words for kind, words in kinds.items()}
        return {**values, "kinds": split}

    @cached_property
    def sha256(self) -> str:
        """A hash of all words; how files are read is none."""
        return hashlib.sha256(self.model_dump_json(exclude={"files"}).encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Domain) and self.sha256 == other.sha256)

    def write(self, folder: Path) -> None:
        """Writes the domain into the folder of a run. Raises `CrsError` when it cannot be written."""
        with writing(folder / NAME) as temporary:
            temporary.write_text(self.model_dump_json(indent=1, exclude={"files"}) + "\n", encoding="utf-8")

    @property
    def a_noun(self) -> str:
        """The noun with its article: "a movie"."""
        return f"{self.article} {self.noun}"

    @property
    def mask(self) -> str:
        """The word that stands for every title where titles are masked."""
        return self.label.upper()

    @property
    def askable(self) -> tuple[str, ...]:
        """The names of further attributes that may be asked for or liked."""
        return tuple(dict.fromkeys((*self.wish.attributes, *self.summary.attributes)))

    def period(self, year: int | None) -> int | None:
        """The first year of the decade, or the year, by which the time of an item of `year` is said; None: not said."""
        span = self.time.span
        return None if year is None or not span else year // span * span


def read(name: str) -> Domain:
    """The domain of a shipped name, or of a file. Raises `CrsError` for the first fault."""
    path = path_of(name)
    return yaml_files.read_as(path, TypeAdapter(Domain), "domain file")


def path_of(name: str) -> Path:
    """The file of a domain. Raises `CrsError` for a name that is neither shipped nor a file's."""
    if re.fullmatch(r"[a-z0-9-]+", name) and (path := FOLDER / f"{name}.yaml").is_file():
        return path
    path = resolve(name)
    if path.is_dir() and path.name in shipped():  # a folder with the name of a domain is not meant
        return FOLDER / f"{path.name}.yaml"
    if not path.is_file():
        raise CrsError(
            f"there is no domain {name!r}; shipped are {', '.join(shipped())}, `crs domain new NAME` writes a file for "
            "another"
        )
    return path


def shipped() -> list[str]:
    """The names of the shipped domains."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.yaml"))


def new(name: str, path: Path) -> None:
    """Writes a file of a domain to fill in, with a comment and an example of each field.

    Raises `CrsError` for a name that is none, and for a file that exists or cannot be written.
    """
    if not re.fullmatch(NAMES, name):
        raise CrsError(f"{name!r} is no name of a domain; use small letters, digits and hyphens, such as board-games")
    if path.exists():
        raise CrsError(f"{path} exists; choose another place with --to, or remove it first")
    with writing(path) as temporary:
        text = (FOLDER / "_new.yaml").read_text(encoding="utf-8")
        temporary.write_text(text.replace("DOMAIN", name), encoding="utf-8")


def of_run(run: Run) -> Domain:
    """The domain of a run, which `Domain.write` wrote into its folder; `FIRST` for a run without one.

    Raises `CrsError` when its file is damaged.
    """
    path = run.path / NAME
    return read(str(path) if path.is_file() else FIRST)


def fill(text: str, **values: str) -> str:
    """A text of a domain with its placeholders filled; nothing in a value is read as a placeholder."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


def alternatives(words: Iterable[str]) -> str:
    """Words as alternatives of a regular expression, longest first; a blank in a word stands for any one blank."""
    return "|".join(re.escape(word).replace(r"\ ", r"\x20") for word in sorted(words, key=len, reverse=True))


def _union(*lists: Sequence[str]) -> Words:
    return tuple(dict.fromkeys(word for words in lists for word in words))
