"""Rounds of imitation on a tiny llama: what is guarded, what is resumed, what is published."""

import contextlib
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("safetensors", reason="needs the extra train")

from crslib import schemas
from crslib.data.corpora import Dialogue
from crslib.dialogue.discriminator import Discriminator
from crslib.dialogue.styles import Style
from crslib.dialogue.templates import ChatTemplate
from crslib.engines import weights as gguf_weights
from crslib.engines.scripted import ScriptedEngine
from crslib.errors import CrsError
from crslib.store import Run
from crslib.training import adapter, examples, rounds, run
from crslib.training.base import Base
from crslib.training.knowledge import Knowledge, Writers
from crslib.training.parameters import DiscriminatorParameters, ImitationParameters
from tests.support import tiny_llama
from tests.support.tiny_redial import write

N_DIALOGUES = 24


class Words(ScriptedEngine):
    """A scripted engine whose tokens are words: small ids for a tiny llama."""

    def __init__(self, vocabulary: list[str]) -> None:
        super().__init__(self._said)
        self._vocabulary = vocabulary

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        words = [f"<{text}>"] if control else text.split()
        for word in words:
            if word not in self._vocabulary:
                self._vocabulary.append(word)
        return [self._vocabulary.index(word) for word in words]

    def decode(self, ids: tuple[int, ...]) -> str:  # type: ignore[override]
        return " ".join(self._vocabulary[one] for one in ids)

    @staticmethod
    def _said(prompt: str, seed: int) -> str:
        """The model says that all is great, in about as many words as people have for it."""
        draw = random.Random(seed)
        return " ".join(draw.choices(("great", "movie", "indeed"), k=draw.choice((6, 7, 8))))


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Words]:
    """Every engine that was opened, the latest last; all share one vocabulary."""
    opened: list[Words] = []
    vocabulary: list[str] = []

    @contextlib.contextmanager
    def drawing(*_: object) -> Iterator[Words]:
        opened.append(Words(vocabulary))
        yield opened[-1]

    def people(
        dialogues: list[Dialogue], parameters: ImitationParameters, known: Knowledge, lacking: Sequence[str]
    ) -> pl.DataFrame:
        words, template = Words(vocabulary), ChatTemplate("")
        return examples.examples(dialogues, parameters.role, words, template, known, without=lacking)

    monkeypatch.setattr(run, "drawing", drawing)
    monkeypatch.setattr(rounds, "_examples", people)
    monkeypatch.setattr(tiny_llama, "N_VOCAB", 800)
    return opened


@pytest.fixture
def given(engines: list[Words], tmp_path: Path) -> ImitationParameters:
    tiny, start = tiny_llama.write_gguf(tmp_path / "tiny.gguf"), tmp_path / "start.gguf"
    model, base = run.load_model(str(tiny), None, 0, torch.device("cpu"), "float32")
    adapter.write_gguf(adapter.Adapter.of(model), base.shape, start)
    corpus = write(tmp_path / "redial" / "train.jsonl", N_DIALOGUES).parent
    return ImitationParameters(
        role="user", redial=str(corpus), init=str(start), model=str(tiny), to=str(tmp_path / "to"), device="cpu",
        threads=1, contexts=60, draws=3, epochs=2, lr=3e-3, rounds=2, guard=3, slack=5.0,
    )  # fmt: skip


def weights(parameters: ImitationParameters, folder: Path) -> list[np.ndarray]:
    read = adapter.read_gguf(folder / f"{parameters.role}.gguf", Base(Path(parameters.model)).shape)
    return [half for pair in read.pairs.values() for half in pair]


def test_the_people_guarded_are_others_than_those_learned_from(given: ImitationParameters) -> None:
    dialogues = run.chosen(run.training_corpus(given), given)
    learned, guarded = rounds.split(dialogues, given)
    assert len(guarded) == 3 and len(learned) + len(guarded) == N_DIALOGUES
    people = [{person for one in side for person in (one.user, one.recommender)} for side in (learned, guarded)]
    assert not people[0] & people[1]
    assert rounds.split(dialogues[::-1], given)[1][::-1] == guarded
    with pytest.raises(CrsError, match="guard = 24 leaves none of 24 dialogues to learn from"):
        rounds.split(dialogues, given.model_copy(update={"guard": 24}))


@pytest.mark.parametrize("parts", [(), ("style",)])
def test_moments_are_seen_as_the_adapter_was_trained(
    given: ImitationParameters, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    style = Style("short turns", "lower case", "no full stops", "no exclamation marks")
    monkeypatch.setattr(Writers, "style", lambda *_: style)  # nobody is there twice, so nobody's style is known
    shape = Base(Path(given.model)).shape
    about = gguf_weights.about("movies", parts)
    adapter.write_gguf(adapter.read_gguf(given.start, shape), shape, given.start, about=about)
    rounds.imitate(given.model_copy(update={"rounds": 1}))
    told = [row["prompt"][0]["content"] for row in pl.read_ndjson(given.folder / "round-1/pairs.jsonl").to_dicts()]
    assert any("How you write: " in text for text in told) == bool(parts)
    assert adapter.parts_of(given.folder / "user.gguf") == set(parts)


def test_each_round_begins_with_the_adapter_of_the_one_before(given: ImitationParameters) -> None:
    done = rounds.imitate(given)
    to = given.folder
    assert done["round"].to_list() == [1, 2]
    assert done["stopped"].to_list() == [False, False]
    assert (done["pairs"] >= 8).all()
    assert done["accuracy"].min() > 0.9, "the model's words are not those of the people"
    assert done["people_before"][1] == pytest.approx(done["people_after"][0], abs=0.02)  # but for rounding to 8 bits
    figures = [json.loads((to / f"round-{n}" / "figures.json").read_text(encoding="utf-8")) for n in (1, 2)]
    assert figures[0]["limit"] == figures[1]["limit"] == pytest.approx(done["people_before"][0] + 5, abs=1e-3)
    pairs = [pl.read_ndjson(to / f"round-{n}" / "pairs.jsonl") for n in (1, 2)]
    assert pairs[0]["context_id"].to_list() != pairs[1]["context_id"].to_list() or not pairs[0].equals(pairs[1])
    assert "Thank you!" in str(pairs[0]["chosen"].to_list()) and "great" in str(pairs[0]["rejected"].to_list())
    assert (to / "user.gguf").read_bytes() == (to / "round-2" / "user.gguf").read_bytes()
    card = (to / "README.md").read_text(encoding="utf-8")
    assert "ReDial's training part (Li et al. 2018, CC BY 4.0)" in card and "- Licence: " in card
    assert "round 2; discriminators" in card and "| people |" in card
    assert "`crs imitate user --redial redial" in card and "--rounds 2" in card
    assert str(to.parent) not in card


class _KilledError(Exception):
    pass


def test_a_killed_imitation_resumes_where_it_was(
    given: ImitationParameters, engines: list[Words], tmp_path: Path
) -> None:
    whole = given.model_copy(update={"to": str(tmp_path / "whole")})
    expected = rounds.imitate(whole)
    n_prompts = [len(engine.prompts) for engine in engines]
    engines.clear()

    def kill(done: int, total: int) -> None:
        training = len(engines) == 2 and done > 60  # tokens of the second round, not its contexts
        if training:
            raise _KilledError

    with pytest.raises(_KilledError):
        rounds.imitate(given, kill)
    assert not (given.folder / "user.gguf").exists()
    engines.clear()
    assert rounds.imitate(given).equals(expected)
    assert [len(engine.prompts) for engine in engines] == [0], "the first round is over, and the second was drawn"
    assert n_prompts[0] > 0
    for one, other in zip(weights(whole, whole.folder), weights(given, given.folder), strict=True):
        assert np.array_equal(one, other)
    engines.clear()
    more = rounds.imitate(given.model_copy(update={"rounds": 3}))
    assert more[:2].equals(expected) and more["round"].to_list() == [1, 2, 3]
    assert len(engines) == 1


def test_other_parameters_are_another_round(given: ImitationParameters, engines: list[Words]) -> None:
    one = given.model_copy(update={"rounds": 1})
    rounds.imitate(one)
    engines.clear()
    rounds.imitate(one.model_copy(update={"beta": 0.2}))
    assert len(engines) == 1


def test_a_round_that_costs_people_their_likelihood_is_the_last(given: ImitationParameters) -> None:
    done = rounds.imitate(given.model_copy(update={"slack": 0.0, "lr": 1.0, "sft": 0.0}))
    assert done["round"].to_list() == [1]
    assert done["stopped"].to_list() == [True]
    assert done["people_after"][0] <= done["people_before"][0] + 1e-4
    assert (given.folder / "user.gguf").exists()


def test_too_few_pairs_are_refused(given: ImitationParameters) -> None:
    with pytest.raises(CrsError, match=r"40 contexts give \d pairs, too few to learn from"):
        dull = given.model_copy(update={"contexts": 40})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Words, "_said", staticmethod(lambda prompt, seed: "great"))
            rounds.imitate(dull)


def test_a_discriminator_is_written_with_its_origin(given: ImitationParameters, tmp_path: Path) -> None:
    parameters = DiscriminatorParameters(
        role="user", redial=given.redial, init=given.init, model=given.model, contexts=60, draws=2,
        to=str(tmp_path / "judges"),
    )  # fmt: skip
    fitted = rounds.fit_discriminator(parameters)
    assert Discriminator.read(tmp_path / "judges" / "user.json") == fitted
    assert fitted.log_odds("great movie indeed") < 0 < fitted.log_odds("I have not seen it. Thank you!")
    assert fitted.about["accuracy"] > 0.9
    assert "CC BY 4.0" in fitted.about["data"] and "licence" in fitted.about
    assert str(tmp_path) not in (tmp_path / "judges" / "user.json").read_text(encoding="utf-8")


def test_a_discriminator_of_a_run_reads_all_turns_of_its_role(given: ImitationParameters, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    turns = [(f"u{n}.0", turn, role, text) for n in range(8) for turn, role, text in ((0, "recommender", "Hi there"),
             (1, "user", "great movie indeed"), (2, "user", ""))]  # fmt: skip
    frame = pl.DataFrame(turns, schema=["dialogue_id", "turn", "role", "text"], orient="row")
    empty = schemas.empty("turns")
    run.write("turns", pl.concat([empty, frame.cast({"turn": empty["turn"].dtype})], how="diagonal"))
    parameters = DiscriminatorParameters(
        role="user", redial=given.redial, run=str(run.path), to=str(tmp_path / "judges")
    )
    fitted = rounds.fit_discriminator(parameters)
    assert fitted.about["model_turns"] == 8  # the empty ones say nothing
    assert fitted.about["human_turns"] == 2 * N_DIALOGUES
    assert fitted.log_odds("great movie indeed") < 0 < fitted.log_odds("I have not seen it. Thank you!")
    assert "run" in fitted.about and "adapter_sha256" not in fitted.about
    with pytest.raises(CrsError, match="does not exist"):
        rounds.fit_discriminator(parameters.model_copy(update={"run": str(tmp_path / "none")}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"limit": "3"}, "limit is not valid"),
        ({"before": {"sft": None}}, "before.sft is not valid"),
        ({"stopped": 1}, "stopped is not valid"),
        (None, "it is not JSON"),
    ],
)
def test_damaged_figures_of_a_round_are_said_and_the_round_is_trained_again(
    change: dict[str, object] | None, reason: str, tmp_path: Path
) -> None:
    figures = {"key": "k", "pairs": 9, "log_loss": 0.5, "accuracy": 0.75, "stopped": False, "limit": 3.0, "seconds": 1}
    figures |= {"before": {"people": 3.0}, "after": {"people": 2.9}}
    path = tmp_path / "figures.json"
    assert rounds._finished(tmp_path, "k") is None
    path.write_text(json.dumps(figures))
    assert rounds._finished(tmp_path, "k") == figures
    assert rounds._finished(tmp_path, "other") is None
    path.write_text(json.dumps(figures | change) if change else "{ torn")
    with pytest.warns(UserWarning, match=f"{path} is not readable .{reason}.*; the round is trained again"):
        assert rounds._finished(tmp_path, "k") is None
