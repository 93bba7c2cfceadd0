"""Dialogues read again by a "model" of one rule over bytes: every figure can be worked out by hand."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from crslib import schemas
from crslib.config import SimulationParameters
from crslib.data.catalog import Catalog
from crslib.dialogue.scripts import SCRIPTED
from crslib.engines.llama import log_softmax
from crslib.engines.scripted import CONTROL, ScriptedEngine
from crslib.errors import CrsError
from crslib.recommender.grounding import CatalogTitles, Grounding
from crslib.recommender.mixture import Mixture
from crslib.simulation import replay
from crslib.simulation.opening import ROLES
from crslib.simulation.population import Population
from crslib.store import Run
from tests.conftest import make_profiles
from tests.simulation import test_loop
from tests.support.domains import MOVIES


class Reader:
    """All bytes are equally likely, but `H` three times as likely as any other behind `[[`."""

    chat_template = ("", "", "")
    pieces = tuple(bytes((byte,)) for byte in range(256))

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        return [byte | CONTROL if control else byte for byte in text.encode()]

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        found = np.zeros((1, 256))
        found[0, ord("H")] = math.log(3) if list(tokens[-2:]) == [ord("["), ord("[")] else 0
        return found

    def read(self, tokens: Sequence[int], start: int) -> np.ndarray:
        self.prompts.append(bytes(token % CONTROL for token in tokens[: start + 1]).decode())
        return np.concatenate([self.logits(tokens[: end + 1]) for end in range(start, len(tokens))])

    def score_tokens(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[np.ndarray]:
        return [
            np.array([self.score([*prompt, *one[:n]], [one[n : n + 1]])[0] for n in range(len(one))])
            for one in continuations
        ]

    def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> np.ndarray:
        return np.array(
            [
                sum(
                    float(log_softmax(self.logits([*prompt, *tokens[:at]]))[0, token])
                    for at, token in enumerate(tokens)
                )
                for tokens in continuations
            ]
        )


def make_run(folder: Path, items: pl.DataFrame, *texts: str) -> Run:
    """One dialogue of u00, which the recommender opens."""
    run = Run(folder)
    linked = [{"item_id": "1", "title": "Heat (1995)", "start": 5, "end": 20}]
    note = [{"item_id": "1", "title": "Heat (1995)", "seen": True, "liked": False}]
    turns = [
        ("u00.0", n, "user", text, [], note if n == 1 else [], 1, 0.0, "end")
        if n % 2
        else ("u00.0", n, "recommender", text, linked, [], 1, 0.0, "end")
        for n, text in enumerate(texts)
    ]
    dialogue = ("u00.0", "r", "u00", "interplay", "recommender", 0, "user_left", len(texts), None, None)
    for name, rows in (("dialogues", [dialogue]), ("turns", turns)):
        run.write(name, pl.DataFrame(rows, schema=dict(schemas.TABLES[name]), orient="row"))
    run.write("profiles", make_profiles(["u00"]))
    run.write("items", items)
    run.write("ratings", test_loop.NO_RATINGS)
    return run


def read(run: Run, items: pl.DataFrame, temperature: float, *, grounded: bool = True) -> replay.Replay:
    reader = Reader()
    grounding = Grounding(CatalogTitles(items, reader, MOVIES), None, Mixture()) if grounded else None
    return replay.read(run, ["u00.0"], Population.read(run), Reader(), reader, grounding, temperature, {})


def read_with(run: Run, items: pl.DataFrame, temperature: float, mixture: Mixture) -> replay.Replay:
    reader = Reader()
    grounding = Grounding(CatalogTitles(items, reader, MOVIES), None, mixture)
    return replay.read(run, ["u00.0"], Population.read(run), Reader(), reader, grounding, temperature, {})


def test_each_token_has_the_models_own_log_probability(tmp_path: Path, items: pl.DataFrame) -> None:
    tokens, _ = read(make_run(tmp_path, items, "Seen [[Heat (1995)]]?", "naïve"), items, 0.7)
    assert dict(tokens.schema) == replay.TOKENS
    first, second = tokens.partition_by("turn")
    expected = [-math.log(256)] * 21
    expected[7] = math.log(3 / 258)  # the H behind [[, whatever the constraint and the temperature
    assert first["logprob"].to_list() == pytest.approx(expected)
    assert "".join(first["piece"]) == "Seen [[Heat (1995)]]?"
    assert second["piece"].to_list() == ["n", "a", "", "ï", "v", "e"]  # two bytes make a letter


def test_candidates_are_what_the_decoder_could_have_written(tmp_path: Path, items: pl.DataFrame) -> None:
    """Six titles, all alike to the prior, and P(title) ∝ P_model(title up to its year)^(model - base)."""
    run = make_run(tmp_path, items, "Seen [[Heat (1995)]]?", "no")
    names = dict(zip(items["item_id"], items["title"], strict=True))
    read = {
        item: math.log(3 if name[0] == "H" else 1) - len(f"{name} (") * math.log(256) for item, name in names.items()
    }
    for power, base in ((1.0, 1.0), (0.7, 0.6), (1.3, 0.9)):
        for temperature in (1.0, 0.5):  # of words
            _, candidates = read_with(run, items, temperature, Mixture(power, 1.0, base))
            assert dict(candidates.schema) == replay.CANDIDATES
            assert candidates["log_prior"].to_list() == pytest.approx([-math.log(6)] * candidates.height)
            worth = {item: math.exp((power - base) * value) for item, value in read.items()}
            expected = [worth[item] / sum(worth.values()) for item in candidates["item_id"]]
            assert candidates["probability"].to_list() == pytest.approx(expected, rel=1e-4)
            heat = candidates.row(by_predicate=pl.col("named"), named=True)
            assert (heat["item_id"], heat["title"]) == ("1", "Heat (1995)")
            assert heat["log_lm"] == pytest.approx(math.log(3 / 258) - 11 * math.log(256))  # "eat (1995)]"


def test_greedy_decoding_has_one_candidate_that_is_sure_and_free_decoding_none(
    tmp_path: Path, items: pl.DataFrame
) -> None:
    run = make_run(tmp_path, items, "Seen [[Heat (1995)]]?", "no")
    _, candidates = read_with(run, items, 0.0, Mixture())
    assert candidates.filter(pl.col("probability") > 0).select("title", "probability").rows() == [("Up (2009)", 1.0)]
    assert read(run, items, 0.7, grounded=False).candidates.is_empty()


def test_what_was_recommended_before_is_no_candidate(tmp_path: Path, items: pl.DataFrame) -> None:
    run = make_run(tmp_path, items, "Seen [[Heat (1995)]]?", "no", "Seen [[Heat (1995)]]?")
    _, candidates = read_with(run, items, 1.0, Mixture(1.0, 1.0, 1.0))
    later = candidates.filter(turn=2)  # where it was named all the same, as only an edited table has it
    assert later["title"].sort().to_list() == sorted(
        ["King Kong (1933)", "King Kong (2005)", "Notting Hill (1999)", "The Matrix (1999)", "Up (2009)"]
    )
    assert later["probability"].to_list() == pytest.approx([1 / 5] * 5)


def test_views_are_built_again_as_the_simulation_had_them(tmp_path: Path, items: pl.DataFrame) -> None:
    people = make_profiles(test_loop.ids(4))
    (dialogues, turns, _), user, recommender, _ = test_loop.run(
        tmp_path, items, people, facts="always", styles=test_loop.STYLES
    )
    run = Run(tmp_path)
    for name, table in (("dialogues", dialogues), ("turns", turns), ("profiles", people), ("items", items)):
        run.write(name, table)
    lookup = Catalog(items, MOVIES).lookup
    asked = 0
    for dialogue in dialogues["dialogue_id"]:
        readers = Reader(), Reader()
        replay.read(
            run, [dialogue], Population(people, items, test_loop.NO_RATINGS, MOVIES), *readers, None, 0.7, lookup
        )
        for reader, engine in zip(readers, (user, recommender), strict=True):
            held = [prompt for key, prompt in engine.prompts if key == dialogue]
            assert reader.prompts == held[: len(reader.prompts)]
            assert len(held) - len(reader.prompts) in (0, 1)  # who left had been asked once more
            asked += len(held)
    assert asked > 10
    assert turns.filter(pl.col("notes").list.len() > 0).height > 2  # the user's prompts hold them


def test_a_run_is_read_by_its_own_models_only(
    tmp_path: Path, items: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, items, "Hi", "Hi")
    engine = ScriptedEngine(lambda prompt, seed: "")
    engine.identity = {"model_sha256": "a", "adapter_sha256": None, "weights": "as they are"}
    monkeypatch.setattr(replay, "open_engines", lambda parameters: nullcontext((engine, engine)))
    with pytest.raises(CrsError, match="the user's model is not the one that"):
        replay.look(run, ["u00.0"], SimulationParameters())
    run.update(agents={role: {**engine.identity, "weights": "merged, Q8_0"} for role in ROLES})
    with pytest.raises(CrsError, match="were merged, Q8_0, and here they are as they are; read it with the version"):
        replay.look(run, ["u00.0"], SimulationParameters())
    with pytest.raises(CrsError, match="does not say which models"):
        replay.look(run, ["u00.0"])
    run.update(parameters={"baseline": SCRIPTED, **SimulationParameters().model_dump()})
    assert replay.look(run, ["u00.0"]).tokens.is_empty()
