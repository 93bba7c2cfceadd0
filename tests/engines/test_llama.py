"""The real 135M model: text that is bit-equal whatever else the engine does, and clear errors for bad files."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from crslib.config import ROOT
from crslib.dialogue.repetition import repeats
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.views import Message
from crslib.engines import weights
from crslib.engines.base import Choice, Completion, Request, Sampling, complete
from crslib.engines.guard import ALLOWANCE
from crslib.engines.llama import (
    AS_THEY_ARE,
    Feeder,
    LlamaEngine,
    MeasuredEngine,
    Model,
    adapter_path,
    identity,
    model_path,
    source,
)
from crslib.errors import CrsError

pytestmark = pytest.mark.model
ADAPTER = ROOT / "data" / "adapters" / "user.gguf"
OTHER_PARTY = [
    "Hi, what movies do you like?",
    "Have you seen [[Titanic (1997)]]?",
    "How about [[Saw (2004)]] and [[It (2017)]]?",
]


def only(token: int) -> Choice:
    return Choice(np.array([token], np.int32), np.zeros(1, np.intp), np.zeros(1))


class Unconstrained:
    """Base class of the constraints in these tests: no token is forbidden or forced."""

    never = np.zeros(0, np.int32)

    def forced(self, ids: Sequence[int]) -> list[int]:
        return []


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    loaded = Model(model_path("smollm2"))
    yield loaded
    loaded.close()


def talk(
    model: Model,
    dialogues: Sequence[int],
    *,
    width: int = 4,
    threads: int = 1,
    turns: int = 3,
    together: int = 99,
    feeder: Feeder | None = None,
) -> dict[int, list[Completion]]:
    """The completions of short dialogues; requests of `together` dialogues at a time are submitted."""
    template = ChatTemplate(*model.chat_template)
    sampling = Sampling(max_tokens=16)
    engine = LlamaEngine(model, ADAPTER, sampling, n_ctx=512, width=width, threads=threads, feeder=feeder)
    views = {p: [Message("system", f"You like the {1900 + 7 * p}s. " * (1 + p % 3))] for p in dialogues}
    completions: dict[int, list[Completion]] = {p: [] for p in dialogues}
    for turn in range(turns):
        for view in views.values():
            view.append(Message("user", OTHER_PARTY[turn]))
        for begin in range(0, len(dialogues), together):
            group = dialogues[begin : begin + together]
            requests = [Request(str(p), tuple(template.encode(views[p], model)), seed=100 * p + turn) for p in group]
            for dialogue, completion in zip(group, complete(engine, requests), strict=True):
                completions[dialogue].append(completion)
                views[dialogue].append(Message("assistant", "", completion.ids))
    engine.close()
    return completions


def talk_apart(model: Model, dialogues: Sequence[int], turns: int = 3) -> dict[int, list[Completion]]:
    """The same dialogues, each at its own pace: the next request follows as soon as an utterance has ended."""
    template = ChatTemplate(*model.chat_template)
    engine = LlamaEngine(model, ADAPTER, Sampling(max_tokens=16), n_ctx=512, width=4)
    views = {p: [Message("system", f"You like the {1900 + 7 * p}s. " * (1 + p % 3))] for p in dialogues}
    completions: dict[int, list[Completion]] = {p: [] for p in dialogues}

    def ask(dialogue: int) -> None:
        turn = len(completions[dialogue])
        views[dialogue].append(Message("user", OTHER_PARTY[turn]))
        prompt = tuple(template.encode(views[dialogue], model))
        engine.submit(Request(str(dialogue), prompt, seed=100 * dialogue + turn))

    waiting = list(dialogues)
    while waiting or engine.pending:
        for dialogue in waiting[:2]:  # two begin with each step, while the utterances of others are incomplete
            ask(dialogue)
        del waiting[:2]
        for key, completion in engine.step():
            completions[int(key)].append(completion)
            views[int(key)].append(Message("assistant", "", completion.ids))
            if len(completions[int(key)]) < turns:
                ask(int(key))
    engine.close()
    return completions


@pytest.fixture(scope="module")
def reference(model: Model) -> dict[int, list[Completion]]:
    return talk(model, range(6))


@pytest.mark.parametrize(
    "case", ["shuffled, more threads", "alone", "in small groups", "among others", "at their own pace"]
)
def test_text_does_not_depend_on_other_dialogues(
    model: Model, reference: dict[int, list[Completion]], case: str
) -> None:
    dialogues = list(range(6))
    random.Random(3).shuffle(dialogues)
    arrangements = {
        "shuffled, more threads": lambda: talk(model, dialogues[:4], threads=2),
        "alone": lambda: talk(model, [5]),
        "in small groups": lambda: talk(model, dialogues[:4], together=2),
        "at their own pace": lambda: talk_apart(model, dialogues[:4]),
        "among others": lambda: talk(model, [20, 21, 3, 22, 4]),
    }
    completions = arrangements[case]()
    shared = completions.keys() & reference.keys()
    assert shared
    for dialogue in shared:  # ids, log-probabilities to the last bit, finish, n_cached
        assert completions[dialogue] == reference[dialogue]


def test_text_does_not_depend_on_the_thread_that_feeds_it(model: Model, reference: dict[int, list[Completion]]) -> None:
    """Some prompts are fed by the feeder's thread, some by the engine's own; which ones is a matter of timing."""
    feeder = Feeder()
    assert talk(model, range(4), feeder=feeder) == {dialogue: reference[dialogue] for dialogue in range(4)}
    feeder.close()


class Eager(Feeder):
    """A feeder that completes a job before it can be cancelled."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        job = super().submit(work, *arguments)
        wait([job])
        return job


class Asleep(Feeder):
    """A feeder that never begins a job."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return Future()


@pytest.mark.parametrize("kind", [Eager, Asleep])
def test_text_is_the_same_if_the_feeder_feeds_all_or_nothing(
    model: Model, reference: dict[int, list[Completion]], kind: type[Feeder]
) -> None:
    feeder = kind()
    assert talk(model, range(3), feeder=feeder) == {dialogue: reference[dialogue] for dialogue in range(3)}
    feeder.close()


def test_an_error_in_the_feeder_is_raised_by_the_engine(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_closing_an_engine_cancels_its_jobs_of_the_feeder(model: Model) -> None:
    feeder, released, begun = Feeder(), Event(), Event()
    feeder.submit(lambda: (begun.set(), released.wait()))  # the feeder is busy
    begun.wait()
    engine = MeasuredEngine(model, None, n_ctx=256, width=2, feeder=feeder)
    for key in "abc":
        engine.submit(Request(key, tuple(model.encode("Hello there")), 1))
    (work,) = engine.work[1:]
    engine.close()
    released.set()
    feeder.close()
    assert not work.fed
    assert not feeder.busy


@pytest.mark.parametrize(("n", "width"), [(640, 2), (300, 1), (258 + 129, 2)])
def test_text_late_in_a_long_dialogue_does_not_depend_on_the_number_of_threads(
    model: Model, n: int, width: int
) -> None:
    """After more than 256 tokens llama.cpp would divide the attention of a single token among its threads: of the last
    token of a prompt that is drawn again, of a step with one row, or of the rest of 129 new tokens."""
    prompt = tuple(model.encode("I liked that film a lot. " * 200)[:n])
    completions = []
    for threads in (1, 2):
        engine = LlamaEngine(model, ADAPTER, Sampling(max_tokens=4), n_ctx=768, width=width, threads=threads)
        (early,) = complete(engine, [Request("a", prompt[:258], 1)])
        (first,) = complete(engine, [Request("b", prompt, 1, n_shared=258)])
        (again,) = complete(engine, [Request("b", prompt, 2)])
        assert again.n_cached == n - 1
        completions.append((early, first, again))
        engine.close()
    assert completions[0] == completions[1]


def test_the_dialogues_of_these_tests_differ_and_use_the_cache(reference: dict[int, list[Completion]]) -> None:
    completions = [completion for dialogue in reference.values() for completion in dialogue]
    assert len({completion.ids for completion in completions}) > 12
    assert all(completion.n_cached > 0 for dialogue in reference.values() for completion in dialogue[1:])
    assert "end" in {completion.finish for completion in completions}
    assert all(logprob <= 0 for completion in completions for logprob in completion.logprobs)


def test_control_tokens_come_from_templates_only(model: Model) -> None:
    text = "a<|im_end|>\n<|im_start|>system"
    assert not set(model.encode(text)) & (model.ends | set(model.controls))
    assert len(set(model.encode(text, control=True)) & (model.ends | set(model.controls))) == 2
    assert model.decode(model.encode(text)) == text


@pytest.mark.parametrize("text", ["Amélie (2001) 🎬", "日本語", "  two  blanks ", "\ttab\nline", "\u0000"])
def test_text_survives_tokenization(model: Model, text: str) -> None:
    assert model.decode(model.encode(text)) == text


def test_greedy_decoding_takes_the_most_likely_token(model: Model) -> None:
    engine = LlamaEngine(model, None, Sampling(temperature=0, max_tokens=8), n_ctx=256, width=2)
    prompt = tuple(model.encode("The capital of France is"))
    first, second = complete(engine, [Request("a", prompt, 1), Request("b", prompt, 2)])
    assert first == second
    assert "Paris" in model.decode(first.ids)
    engine.close()


def test_a_constraint_allows_its_tokens_only(model: Model) -> None:
    allowed = model.encode(" yes")[:1] + model.encode(" no")[:1]

    class YesNo(Unconstrained):
        def allowed(self, ids: Sequence[int]) -> Choice:
            return Choice(np.array(allowed, np.int32), np.arange(2), np.array([0.0, -50.0]))

    engine = LlamaEngine(model, None, Sampling(temperature=1, top_p=1, min_p=0, max_tokens=4), n_ctx=256, width=2)
    prompt = tuple(model.encode("The answer is"))
    completions = complete(engine, [Request(str(k), prompt, k, YesNo()) for k in range(5)])
    assert {token for completion in completions for token in completion.ids} == {allowed[0]}
    engine.close()


class FourAnswers(Unconstrained):
    """Each token of the utterance is one of four, by the square root of the model's probability and a weight."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.choice = Choice(np.array(tokens, np.int32), np.arange(4), np.log([4.0, 1.0, 1.0, 2.0]), power=0.5)

    def allowed(self, ids: Sequence[int]) -> Choice:
        return self.choice


def test_what_a_constraint_leaves_is_drawn_alike_at_all_temperatures_of_words(model: Model) -> None:
    tokens = [model.encode(word)[0] for word in (" yes", " no", " maybe", " never")]
    prompt = tuple(model.encode("The answer is"))
    drawn = []
    for temperature in (0.2, 1.0, 3.0, 0.0):
        sampling = Sampling(temperature=temperature, top_p=0.5, min_p=0.5, max_tokens=1)
        engine = LlamaEngine(model, None, sampling, n_ctx=256, width=8)
        asked = [Request(str(seed), prompt, seed, FourAnswers(tokens)) for seed in range(12)]
        drawn.append([completion.ids[0] for completion in complete(engine, asked)])
        scores = FourAnswers(tokens).choice.scores(engine.score(prompt, [[token] for token in tokens]))
        engine.close()
    cold, level, hot, greedy = drawn
    assert cold == level == hot
    assert len(set(level)) > 1
    assert set(greedy) == {tokens[int(scores.argmax())]}


def test_tokens_are_scored_as_continuations_are_whatever_the_width(model: Model) -> None:
    prompt = model.encode("Have you seen [[")
    texts = [model.encode(text) for text in ("The Big Lebowski (", "Up (", "The Matrix (", "Heat", "Kill Bill (")]
    scored = []
    for width in (2, 5):
        engine = LlamaEngine(model, ADAPTER, n_ctx=256, width=width)
        scored.append(engine.score_tokens(prompt, [*texts, []]))
        whole = engine.score(prompt, texts)
        engine.close()
    assert all(np.array_equal(a, b) for a, b in zip(*scored, strict=True))
    assert [len(one) for one in scored[0]] == [*map(len, texts), 0]
    # Q4_1 weights round differently in other portions.
    assert [one.sum() for one in scored[0][:-1]] == pytest.approx(whole, abs=0.5)


class FixedText(Unconstrained):
    """Allows one text only: its first tokens are drawn, the others are forced."""

    def __init__(self, text: Sequence[int], drawn: int) -> None:
        self.text, self.drawn = list(text), drawn

    def allowed(self, ids: Sequence[int]) -> Choice | None:
        return only(self.text[len(ids)]) if len(ids) < len(self.text) else None

    def forced(self, ids: Sequence[int]) -> list[int]:
        return self.text[self.drawn :] if len(ids) == self.drawn else []


def test_forced_tokens_are_part_of_the_utterance(model: Model) -> None:
    text = model.encode(" The Big Lebowski (1998)]].")  # it ends with its sentence, beyond `max_tokens`
    engine = LlamaEngine(model, None, Sampling(max_tokens=3), n_ctx=256, width=2)
    prompt = tuple(model.encode("I liked [["))
    drawn, forced = complete(
        engine, [Request("a", prompt, 1, FixedText(text, 99)), Request("b", prompt, 1, FixedText(text, 2))]
    )
    assert drawn.ids == forced.ids == tuple(text)
    assert drawn.logprobs == forced.logprobs
    assert drawn.finish == "max_tokens"
    engine.close()


def test_never_applies_where_the_model_is_free(model: Model) -> None:
    engine = LlamaEngine(model, None, Sampling(temperature=0, max_tokens=1), n_ctx=256, width=1)
    prompt = tuple(model.encode("The capital of France is"))
    (first,) = complete(engine, [Request("a", prompt, 1)])

    class Not(Unconstrained):
        never = np.array(first.ids, np.int32)

        def allowed(self, ids: Sequence[int]) -> None:
            return None

    (other,) = complete(engine, [Request("b", prompt, 1, Not())])
    assert other.ids != first.ids
    engine.close()


def test_text_does_not_depend_on_which_dialogue_feeds_a_shared_beginning_first(model: Model) -> None:
    beginning = model.encode("You are a movie recommender. ")
    requests = [
        Request(str(k), (*beginning, *model.encode(f"Say something about film {k}.")), k, n_shared=len(beginning))
        for k in range(5)
    ]
    completions = []
    for order in (requests, requests[::-1], requests[3:]):
        engine = MeasuredEngine(model, None, Sampling(max_tokens=12), n_ctx=256, width=2)
        completions.append(dict(zip([r.key for r in order], complete(engine, order), strict=True)))
        assert sum(n for _, n in engine.work[0].fed) < sum(len(r.prompt) for r in order)
        engine.close()
    assert completions[0] == completions[1]
    assert completions[2] == {key: completions[0][key] for key in completions[2]}


def test_scores_are_the_log_probabilities_of_the_texts(model: Model) -> None:
    """As the engine records them for forced tokens; shared prefixes and earlier prompts change nothing."""
    prompt = model.encode("My favourite film is")
    texts = [model.encode(text) for text in (" Heat", " Heathers", " The Matrix", " The Matrix Reloaded", " Up")]
    engine = LlamaEngine(model, None, Sampling(temperature=1, top_p=1, min_p=0), n_ctx=256, width=2)
    forced = complete(engine, [Request(str(k), tuple(prompt), k, FixedText(text, 0)) for k, text in enumerate(texts)])
    expected = [sum(c.logprobs[: len(text)]) for c, text in zip(forced, texts, strict=True)]
    engine.score(model.encode("My favourite dish"), texts[:1])
    np.testing.assert_allclose(engine.score(prompt, texts), expected, atol=0.05)
    np.testing.assert_allclose(engine.score(prompt, texts[::-1]), expected[::-1], atol=0.05)
    with pytest.raises(CrsError, match="leaves no room in n_ctx = 256"):
        engine.score(prompt * 80, texts)
    engine.close()


def test_a_full_context_ends_the_utterance_and_release_clears_the_cache(model: Model) -> None:
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


@pytest.mark.parametrize("most", [1, 9, 20, 45])
def test_what_is_cut_ends_with_a_whole_word_and_is_the_beginning_of_what_was_meant(model: Model, most: int) -> None:
    """Without a drop of randomness, so that the longer text goes on where the shorter one was cut."""
    prompt = ChatTemplate(*model.chat_template).encode(
        [Message("user", "Tell me about the film Heat, at length.")], model
    )
    texts = []
    for max_tokens in (most, 60):
        engine = LlamaEngine(model, None, Sampling(temperature=0, max_tokens=max_tokens), n_ctx=256, width=1)
        (completion,) = complete(engine, [Request("a", tuple(prompt), 1)])
        assert completion.finish == "max_tokens"
        assert len(completion.logprobs) == len(completion.ids) <= max_tokens + ALLOWANCE
        texts.append(model.decode(completion.ids))
        engine.close()
    cut, whole = texts
    assert whole.startswith(cut) and cut
    assert cut[-1] in ".!?" or whole[len(cut)].isspace()


def test_a_model_that_would_repeat_itself_does_not(model: Model) -> None:
    """The base, greedy, goes on and on where it was given a beginning of that kind."""
    prompt = tuple(model.encode("It is a great movie. " * 12))
    said = {}
    for guard in ("off", "utterance"):
        engine = LlamaEngine(model, None, Sampling(temperature=0, max_tokens=40, guard=guard), n_ctx=256, width=1)
        (completion,) = complete(engine, [Request("a", prompt, 1)])
        said[guard] = model.decode(completion.ids)
        engine.close()
    assert repeats(said["off"])
    assert not repeats(said["utterance"])
    assert said["utterance"].startswith(said["off"][: len("It is a great movie")])


def test_bad_files_raise_one_sentence(model: Model, tmp_path: Path) -> None:
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


def test_identity_depends_on_everything_that_changes_the_text() -> None:
    model = model_path("smollm2")

    def identify(adapter: Path | None = ADAPTER, width: int = 8, form: str = "Q8_0", **sampling: Any) -> dict:
        return identity(source(model, adapter, form), Sampling(**sampling), 512, width)

    assert identify() == identify()
    assert identify() not in [
        identify(adapter=None),
        identify(temperature=0.8),
        identify(guard="off"),
        identify(width=16),
        identify(form="BF16"),
        identify(form=AS_THEY_ARE),
    ]


# ── merged weights ──


SAID = (
    "Hi! I am looking for a good comedy like [[The Hangover (2009)]]. Have you seen it?",
    "I have seen it and I loved it! I would recommend [[Bridesmaids (2011)]] or [[Superbad (2007)]] too.",
    "My sister told me that it is great. I will watch it this weekend. Thank you, and have a great day!",
    "What is it about? I like thrillers with a good story, something like [[Seven (1995)]], nothing that is too scary.",
    "It stars Brad Pitt and Morgan Freeman. It came out in 1995; it is about two policemen who look for a murderer.",
    "No, I have not seen that one. Is it as funny as [[Hot Fuzz (2007)]]? I watched that with my brother last summer.",
)


def test_merged_weights_give_the_same_probabilities(model: Model, tmp_path: Path) -> None:
    """Log-probabilities of some texts with the adapter unmerged and merged: a hundredth of a nat apart per token, of
    enough tokens that rounding, .07 nats for one, comes to less."""
    path = weights.merged(model.path, ADAPTER, "Q8_0", tmp_path)
    merged_model = Model(path)
    prompt = ChatTemplate(*model.chat_template).encode([Message("system", "You are a movie recommender.")], model)
    texts = [model.encode(text) for text in SAID]
    assert sum(map(len, texts)) > 150

    class Forced(Unconstrained):
        def __init__(self, text: Sequence[int]) -> None:
            self.text = text

        def allowed(self, ids: Sequence[int]) -> Choice:
            return only(self.text[len(ids)])

    logprobs = []
    for weights_of, adapter in ((model, ADAPTER), (merged_model, None), (model, None)):
        drawn: list[float] = []
        for text in texts:
            engine = LlamaEngine(weights_of, adapter, Sampling(max_tokens=len(text)), n_ctx=256, width=1)
            (completion,) = complete(engine, [Request("a", tuple(prompt), 1, Forced(text))])
            assert completion.ids == tuple(text)
            drawn += completion.logprobs
            engine.close()
        logprobs.append(np.array(drawn))
    merged_model.close()
    unmerged, merged, base = logprobs
    assert abs(unmerged.mean() - merged.mean()) < 0.02
    assert np.abs(unmerged - merged).mean() < 0.1
    assert abs(unmerged.mean() - base.mean()) > 0.3  # the adapter changes the model
    before = path.stat().st_mtime_ns
    assert weights.merged(model.path, ADAPTER, "Q8_0", tmp_path) == path
    assert path.stat().st_mtime_ns == before


def test_files_that_cannot_be_merged_raise_one_sentence(model: Model, tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_bytes(ADAPTER.read_bytes().replace(b"llama", b"bloom", 1))
    with pytest.raises(CrsError, match="does not fit the model"):
        weights.merged(model.path, tmp_path / "other.gguf", "Q8_0", tmp_path)
    (tmp_path / "cut.gguf").write_bytes(ADAPTER.read_bytes()[:5_000_000])
    with pytest.raises(CrsError, match="is damaged"):
        weights.merged(model.path, tmp_path / "cut.gguf", "Q8_0", tmp_path)
    with pytest.raises(CrsError, match="is not a LoRA adapter"):
        weights.merged(model.path, model.path, "Q8_0", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"other.gguf", "cut.gguf"}
