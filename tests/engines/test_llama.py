"""The real 135M model: bit-equal text whatever lies around a dialogue, and clear words for bad files."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from crslib.config import ROOT
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.views import Message
from crslib.engines import weights
from crslib.engines.base import Completion, Request, Sampling, complete
from crslib.engines.llama import AS_THEY_ARE, Feeder, LlamaEngine, Model, adapter_path, identity, model_path, source
from crslib.errors import CrsError

pytestmark = pytest.mark.model
ADAPTER = ROOT / "data" / "adapters" / "user.gguf"
HEARD = [
    "Hi, what movies do you like?",
    "Have you seen [[Titanic (1997)]]?",
    "How about [[Saw (2004)]] and [[It (2017)]]?",
]


class Free:
    """What every constraint of these tests has: nothing forbidden, forced or left open."""

    never = np.zeros(0, np.int32)

    def forced(self, ids: Sequence[int]) -> list[int]:
        return []

    def open(self, ids: Sequence[int]) -> bool:
        return False


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    loaded = Model(model_path("smollm2"))
    yield loaded
    loaded.close()


def talk(
    model: Model,
    people: Sequence[int],
    *,
    width: int = 4,
    threads: int = 2,
    turns: int = 3,
    together: int = 99,
    feeder: Feeder | None = None,
) -> dict[int, list[Completion]]:
    """A short talk with each person: `together` of them at a time are given to the engine."""
    template = ChatTemplate(*model.chat_template)
    sampling = Sampling(max_tokens=16)
    engine = LlamaEngine(model, ADAPTER, sampling, n_ctx=512, width=width, threads=threads, feeder=feeder)
    views = {p: [Message("system", f"You like the {1900 + 7 * p}s. " * (1 + p % 3))] for p in people}
    said: dict[int, list[Completion]] = {p: [] for p in people}
    for turn in range(turns):
        for view in views.values():
            view.append(Message("user", HEARD[turn]))
        for begin in range(0, len(people), together):
            group = people[begin : begin + together]
            requests = [Request(str(p), tuple(template.encode(views[p], model)), seed=100 * p + turn) for p in group]
            for person, completion in zip(group, complete(engine, requests), strict=True):
                said[person].append(completion)
                views[person].append(Message("assistant", "", completion.ids))
    engine.close()
    return said


def talk_apart(model: Model, people: Sequence[int], turns: int = 3) -> dict[int, list[Completion]]:
    """The same talks, each at its own pace: whoever has ended an utterance hears the next at once."""
    template = ChatTemplate(*model.chat_template)
    engine = LlamaEngine(model, ADAPTER, Sampling(max_tokens=16), n_ctx=512, width=4, threads=2)
    views = {p: [Message("system", f"You like the {1900 + 7 * p}s. " * (1 + p % 3))] for p in people}
    said: dict[int, list[Completion]] = {p: [] for p in people}

    def ask(person: int) -> None:
        turn = len(said[person])
        views[person].append(Message("user", HEARD[turn]))
        prompt = tuple(template.encode(views[person], model))
        engine.submit(Request(str(person), prompt, seed=100 * person + turn))

    waiting = list(people)
    while waiting or engine.pending:
        for person in waiting[:2]:  # they come in twos, while others are in the middle of a word
            ask(person)
        del waiting[:2]
        for key, completion in engine.step():
            said[int(key)].append(completion)
            views[int(key)].append(Message("assistant", "", completion.ids))
            if len(said[int(key)]) < turns:
                ask(int(key))
    engine.close()
    return said


@pytest.fixture(scope="module")
def reference(model: Model) -> dict[int, list[Completion]]:
    return talk(model, range(6))


@pytest.mark.parametrize(
    "case", ["shuffled, fewer threads", "alone", "in small groups", "among others", "at their own pace"]
)
def test_text_is_bit_equal_whatever_is_around(model: Model, reference: dict[int, list[Completion]], case: str) -> None:
    people = list(range(6))
    random.Random(3).shuffle(people)
    arrangements = {
        "shuffled, fewer threads": lambda: talk(model, people, threads=1),
        "alone": lambda: talk(model, [5]),
        "in small groups": lambda: talk(model, people[:4], together=2),
        "at their own pace": lambda: talk_apart(model, people),
        "among others": lambda: talk(model, [20, 21, 3, 22, 23, 24, 4]),
    }
    found = arrangements[case]()
    shared = found.keys() & reference.keys()
    assert shared
    for person in shared:
        assert found[person] == reference[person]  # ids, log-probabilities to the last bit, finish, what was cached


def test_text_is_bit_equal_whoever_feeds_it(model: Model, reference: dict[int, list[Completion]]) -> None:
    """Some prompts are fed by the feeder's thread, some by the engine's own: which is a matter of moments."""
    feeder = Feeder()
    assert talk(model, range(6), feeder=feeder) == reference
    feeder.close()


class Eager(Feeder):
    """A feeder that has done everything before anybody can take it back."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        asked = super().submit(work, *arguments)
        wait([asked])
        return asked


class Asleep(Feeder):
    """A feeder that begins with nothing."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return Future()


@pytest.mark.parametrize("kind", [Eager, Asleep])
def test_text_is_bit_equal_if_the_feeder_feeds_all_or_nothing(
    model: Model, reference: dict[int, list[Completion]], kind: type[Feeder]
) -> None:
    feeder = kind()
    assert talk(model, range(6), feeder=feeder) == reference
    feeder.close()


def test_what_stops_the_feeder_is_raised_by_the_engine(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    feeder = Eager()
    engine = LlamaEngine(model, None, n_ctx=256, width=2, feeder=feeder)

    def fail(*_: Any) -> None:
        raise CrsError("llama.cpp failed to decode")

    monkeypatch.setattr(engine, "_feed", fail)
    engine.submit(Request("a", tuple(model.encode("Hello")), 1))
    with pytest.raises(CrsError, match="failed to decode"):
        engine.step()
    engine.close()
    feeder.close()


def test_an_engine_that_is_closed_takes_back_what_it_has_asked_for(model: Model) -> None:
    feeder, going, begun = Feeder(), Event(), Event()
    feeder.submit(lambda: (begun.set(), going.wait()))  # it has its hands full
    begun.wait()
    engine = LlamaEngine(model, None, n_ctx=256, width=2, feeder=feeder)
    for key in "abc":
        engine.submit(Request(key, tuple(model.encode("Hello there")), 1))
    (work,) = engine.work[1:]
    engine.close()
    going.set()
    feeder.close()
    assert not work.fed
    assert not feeder.busy


@pytest.mark.parametrize(("n", "width"), [(640, 2), (300, 1), (258 + 129, 2)])
def test_late_in_a_long_dialogue_the_number_of_threads_changes_nothing(model: Model, n: int, width: int) -> None:
    """Behind more than 256 tokens llama.cpp would share a single token's attention out among its threads: the last one
    of a prompt that is drawn again, that of a step of one row, or what is left over of 129 new ones."""
    prompt = tuple(model.encode("I liked that film a lot. " * 200)[:n])
    said = []
    for threads in (1, 2):
        engine = LlamaEngine(model, ADAPTER, Sampling(max_tokens=4), n_ctx=768, width=width, threads=threads)
        (early,) = complete(engine, [Request("a", prompt[:258], 1)])
        (first,) = complete(engine, [Request("b", prompt, 1, n_shared=258)])
        (again,) = complete(engine, [Request("b", prompt, 2)])
        assert again.n_cached == n - 1
        said.append((early, first, again))
        engine.close()
    assert said[0] == said[1]


def test_what_was_said_is_worth_testing(reference: dict[int, list[Completion]]) -> None:
    texts = {completion.ids for said in reference.values() for completion in said}
    assert len(texts) > 12
    assert all(completion.n_cached > 0 for said in reference.values() for completion in said[1:])
    assert {completion.finish for said in reference.values() for completion in said} >= {"end"}
    assert all(logprob <= 0 for said in reference.values() for c in said for logprob in c.logprobs)


def test_control_tokens_come_from_templates_only(model: Model) -> None:
    text = "a<|im_end|>\n<|im_start|>system"
    assert not set(model.encode(text)) & (model.ends | set(model.controls))
    assert len(set(model.encode(text, control=True)) & (model.ends | set(model.controls))) == 2
    assert model.decode(model.encode(text)) == text


@pytest.mark.parametrize("text", ["Amélie (2001) 🎬", "日本語", "  two  blanks ", "\ttab\nline", "\u0000"])
def test_text_survives_tokenization(model: Model, text: str) -> None:
    assert model.decode(model.encode(text)) == text


def test_greedy_is_the_best_token(model: Model) -> None:
    engine = LlamaEngine(model, None, Sampling(temperature=0, max_tokens=8), n_ctx=256, width=2, threads=2)
    prompt = tuple(model.encode("The capital of France is"))
    first, second = complete(engine, [Request("a", prompt, 1), Request("b", prompt, 2)])
    assert first == second
    assert "Paris" in model.decode(first.ids)
    engine.close()


def test_constraint_leaves_only_what_it_allows(model: Model) -> None:
    allowed = model.encode(" yes")[:1] + model.encode(" no")[:1]

    class YesNo(Free):
        def allowed(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
            return np.array(allowed, np.int32), np.array([0.0, -50.0], np.float32)

    engine = LlamaEngine(model, None, Sampling(temperature=1, top_p=1, min_p=0, max_tokens=4), n_ctx=256, width=2)
    prompt = tuple(model.encode("The answer is"))
    found = complete(engine, [Request(str(k), prompt, k, YesNo()) for k in range(5)])
    assert {token for completion in found for token in completion.ids} == {allowed[0]}
    engine.close()


class Spelt(Free):
    """Allows one text only: its first tokens are drawn, the others are forced, and it is open to its end."""

    def __init__(self, text: Sequence[int], drawn: int) -> None:
        self.text, self.drawn = list(text), drawn

    def allowed(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray] | None:
        return (np.array([self.text[len(ids)]]), np.zeros(1, np.float32)) if len(ids) < len(self.text) else None

    def forced(self, ids: Sequence[int]) -> list[int]:
        return self.text[self.drawn :] if len(ids) == self.drawn else []

    def open(self, ids: Sequence[int]) -> bool:
        return len(ids) < len(self.text)


def test_forced_tokens_are_said_and_what_is_open_is_finished(model: Model) -> None:
    text = model.encode(" The Big Lebowski (1998)]]")
    engine = LlamaEngine(model, None, Sampling(max_tokens=3), n_ctx=256, width=2)
    prompt = tuple(model.encode("I liked [["))
    drawn, forced = complete(
        engine, [Request("a", prompt, 1, Spelt(text, 99)), Request("b", prompt, 1, Spelt(text, 2))]
    )
    assert drawn.ids == forced.ids == tuple(text)
    assert drawn.logprobs == forced.logprobs
    assert drawn.finish == "max_tokens"
    engine.close()


def test_never_holds_where_the_model_is_free(model: Model) -> None:
    engine = LlamaEngine(model, None, Sampling(temperature=0, max_tokens=1), n_ctx=256, width=1)
    prompt = tuple(model.encode("The capital of France is"))
    (first,) = complete(engine, [Request("a", prompt, 1)])

    class Not(Free):
        never = np.array(first.ids, np.int32)

        def allowed(self, ids: Sequence[int]) -> None:
            return None

    (other,) = complete(engine, [Request("b", prompt, 1, Not())])
    assert other.ids != first.ids
    engine.close()


def test_a_shared_beginning_changes_nothing_whoever_comes_first(model: Model) -> None:
    beginning = model.encode("You are a movie recommender. ")
    asked = [
        Request(str(k), (*beginning, *model.encode(f"Say something about film {k}.")), k, n_shared=len(beginning))
        for k in range(5)
    ]
    said = []
    for order in (asked, asked[::-1], asked[3:]):
        engine = LlamaEngine(model, None, Sampling(max_tokens=12), n_ctx=256, width=2)
        said.append(dict(zip([r.key for r in order], complete(engine, order), strict=True)))
        assert sum(n for _, n in engine.work[0].fed) < sum(len(r.prompt) for r in order)
        engine.close()
    assert said[0] == said[1]
    assert said[2] == {key: said[0][key] for key in said[2]}


def test_scores_are_the_log_probabilities_of_what_is_said(model: Model) -> None:
    """Against the engine's own account of forced words; beginnings in common and earlier prompts change nothing."""
    prompt = model.encode("My favourite film is")
    texts = [model.encode(text) for text in (" Heat", " Heathers", " The Matrix", " The Matrix Reloaded", " Up")]
    engine = LlamaEngine(model, None, Sampling(temperature=1, top_p=1, min_p=0), n_ctx=256, width=2)
    said = complete(engine, [Request(str(k), tuple(prompt), k, Spelt(text, 0)) for k, text in enumerate(texts)])
    expected = [sum(c.logprobs[: len(text)]) for c, text in zip(said, texts, strict=True)]
    engine.score(model.encode("My favourite dish"), texts[:1])
    np.testing.assert_allclose(engine.score(prompt, texts), expected, atol=0.05)
    np.testing.assert_allclose(engine.score(prompt, texts[::-1]), expected[::-1], atol=0.05)
    with pytest.raises(CrsError, match="leaves no room in n_ctx = 256"):
        engine.score(prompt * 80, texts)
    engine.close()


def test_rehearsal_does_the_same_work(model: Model) -> None:
    engine = LlamaEngine(model, None, Sampling(max_tokens=8), n_ctx=256, width=2)
    complete(engine, [Request("a", tuple(model.encode("Tell me of a film. " * 9)), 1)])
    (before,) = engine.work
    prefill, decode, seconds = engine.rehearse(before.fed, 40, before.steps)
    assert prefill > 0 < decode
    assert seconds >= prefill + decode
    assert engine.work[0] is before
    engine.close()


def test_context_full_and_forget(model: Model) -> None:
    engine = LlamaEngine(model, None, Sampling(max_tokens=500), n_ctx=256, width=1)
    long = tuple(model.encode("word " * 250))
    (cut,) = complete(engine, [Request("a", long, 1)])
    assert cut.finish == "context_full"
    assert 0 < len(cut.ids) < 10
    (none,) = complete(engine, [Request("b", long + long, 1)])
    assert (none.ids, none.finish) == ((), "context_full")
    engine.release("a")
    (again,) = complete(engine, [Request("a", long, 1)])
    assert again == cut
    engine.close()


def test_bad_files_are_told_in_one_sentence(model: Model, tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"cannot read the model .*No such file"):
        model_path(str(tmp_path / "missing.gguf"))
    (tmp_path / "page.gguf").write_text("<html>not found</html>")
    with pytest.raises(CrsError, match="is not a GGUF file"):
        adapter_path(str(tmp_path / "page.gguf"))
    (tmp_path / "short.gguf").write_bytes(model.path.read_bytes()[:40_000_000])
    with pytest.raises(CrsError, match=r"cannot load the model .*short\.gguf"):
        Model(tmp_path / "short.gguf")
    (tmp_path / "cut.gguf").write_bytes(ADAPTER.read_bytes()[:5_000_000])
    with pytest.raises(CrsError, match="does not fit the model"):
        LlamaEngine(model, tmp_path / "cut.gguf", width=1)
    (tmp_path / "other.gguf").write_bytes(ADAPTER.read_bytes().replace(b"llama", b"bloom", 1))
    with pytest.raises(CrsError, match="does not fit the model"):
        LlamaEngine(model, tmp_path / "other.gguf", width=1)


def test_identity_knows_what_changes_the_text() -> None:
    model = model_path("smollm2")

    def made(adapter: Path | None = ADAPTER, width: int = 8, form: str = "Q8_0", **sampling: float) -> dict:
        return identity(source(model, adapter, form), Sampling(**sampling), 512, width)

    assert made() == made()
    assert made() not in [
        made(adapter=None),
        made(temperature=0.8),
        made(width=16),
        made(form="BF16"),
        made(form=AS_THEY_ARE),
    ]


# ── merged weights ──


def test_merged_weights_say_the_same(model: Model, tmp_path: Path) -> None:
    """Log-probabilities of one text, adapter beside the weights and inside: a hundredth of a nat apart per token."""
    path = weights.merged(model.path, ADAPTER, "Q8_0", tmp_path)
    inside = Model(path)
    prompt = ChatTemplate(*model.chat_template).encode([Message("system", "You are a movie recommender.")], model)
    text = model.encode("Hi! I am looking for a good comedy like [[The Hangover (2009)]]. Have you seen it?")

    class Forced(Free):
        def allowed(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
            return np.array([text[len(ids)]], np.int32), np.zeros(1, np.float32)

    found = []
    for weighted, adapter in ((model, ADAPTER), (inside, None), (model, None)):
        engine = LlamaEngine(weighted, adapter, Sampling(max_tokens=len(text)), n_ctx=256, width=1)
        (said,) = complete(engine, [Request("a", tuple(prompt), 1, Forced())])
        assert said.ids == tuple(text)
        found.append(np.array(said.logprobs))
        engine.close()
    inside.close()
    beside, merged, base = found
    assert abs(beside.mean() - merged.mean()) < 0.02
    assert np.abs(beside - merged).mean() < 0.1
    assert abs(beside.mean() - base.mean()) > 0.3  # the adapter does something
    before = path.stat().st_mtime_ns
    assert weights.merged(model.path, ADAPTER, "Q8_0", tmp_path) == path
    assert path.stat().st_mtime_ns == before


def test_what_cannot_be_merged_is_told(model: Model, tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_bytes(ADAPTER.read_bytes().replace(b"llama", b"bloom", 1))
    with pytest.raises(CrsError, match="does not fit the model"):
        weights.merged(model.path, tmp_path / "other.gguf", "Q8_0", tmp_path)
    (tmp_path / "cut.gguf").write_bytes(ADAPTER.read_bytes()[:5_000_000])
    with pytest.raises(CrsError, match="is damaged"):
        weights.merged(model.path, tmp_path / "cut.gguf", "Q8_0", tmp_path)
    with pytest.raises(CrsError, match="is not a LoRA adapter"):
        weights.merged(model.path, model.path, "Q8_0", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"other.gguf", "cut.gguf"}
