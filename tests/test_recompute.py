"""The script that recomputes a run's metrics agrees with the library, does not use it, and reports differences."""

import ast
import random
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from crslib.config import ROOT
from crslib.data import catalog
from crslib.data.corpora import Dialogue, Item, frames
from crslib.data.corpora.base import merge_messages
from crslib.dialogue.utterances import mentions
from crslib.metrics import evaluate, ngram, reference, two_sample
from tests import recompute
from tests.support import readings
from tests.support.domains import MOVIES
from tests.support.metrics_frames import NAMES, table, talk

TITLES = [*NAMES, "Ghost Film (1900)"]
PHRASES = [
    "hi",
    "what do you like?",
    "I've seen it — great",
    "something funny, please",
    "no",
    "...",
    "",
    "yes! heat",
    "ok",
    "who is in it?",
    "when was it made?",
    "what is it about?",
    "It stars Al Pacino and John Doe.",
    "It came out in 1995.",
    "Directed by Pete Docter!",
    "you should see it. you should see it",
]


def some_talk(draw: random.Random) -> list[str]:
    turns = []
    for n in range(draw.choice([0, 1, *range(4, 12)])):
        words = draw.choices(PHRASES, k=draw.randint(1, 4))
        words += [f"[[{name}]]" for name in draw.choices(TITLES, k=draw.choice([0, 0, 1, 1, 2]))]
        turns.append(f"{'UR'[n % 2]}: {' '.join(words).strip()}")
    return turns


@pytest.fixture
def run(items: pl.DataFrame, tmp_path: Path) -> Path:
    """Forty dialogues of random words, some of them silent, with leaks planted in two prompts."""
    draw = random.Random(1)
    names = [f"p{n:02d}" for n in range(40)]
    talks = {profile_id: some_talk(draw) for profile_id in names}
    noted = {
        (profile_id, n): [
            (name, draw.random() < 0.5, draw.choice([True, False, None]))
            for name in dict.fromkeys(TITLES) if f"[[{name}]]" in turns[n - 1]
        ]
        for profile_id, turns in talks.items() for n in range(2, len(turns), 2)
    }  # fmt: skip
    profiles = [
        {
            "profile_id": profile_id,
            "summary": "You enjoy crime movies. You loved Up (2009).",
            "attributes": "action movie",
            "target_kinds": draw.choice([["action"], ["comedy", "romance"], []]),
            "target_decade": draw.choice([1990, None]),
            "target_person": draw.choice(["Al Pacino", None]),
            "target_maker": draw.choice(["Pete Docter", None]),
            "loved_items": draw.sample("123456", k=3),
            "liked_kinds": draw.sample(["action", "family", "romance", "western"], k=draw.randint(0, 3)),
            "k_anonymity": 0,
        }
        for profile_id in names
    ]
    for row in profiles:
        attributes = {name: row[f"target_{name}"] for name in ("kinds", "decade", "person", "maker")}
        row["k_anonymity"] = catalog.matches(items, **attributes).sum()
    hidden = [
        {"profile_id": profile_id, "item_id": item, "rating": 4.0, "liked": draw.random() < 0.8}
        for profile_id in names for item in draw.sample("12346", k=draw.randint(0, 3))
    ]  # fmt: skip
    leak = {("p08", "U"): "You want Heat (1995).", ("p09", "R"): "You enjoy crime movies", ("p09", "U"): "Heat (1995)"}
    prompts = [
        {"dialogue_id": profile_id, "turn": n, "role": {"U": "user", "R": "recommender"}[turn[0]],
         "text": "x " + leak.get((profile_id, turn[0]), "") * (n < 2), "n_tokens": 1}
        for profile_id, turns in talks.items() for n, turn in enumerate(turns)
    ]  # fmt: skip
    hidden = [row for row in hidden if row["profile_id"] not in ("p08", "p09")]
    hidden += [{"profile_id": p, "item_id": "1", "rating": 5.0, "liked": True} for p in ("p08", "p09")]
    dialogues, turns = talk(talks, notes=noted)
    tables = {
        "profiles": table("profiles", profiles),
        "holdouts": table("holdouts", hidden),
        "items": items,
        "ratings": table("ratings", [{"user_id": "a", "item_id": i, "rating": 5.0} for i in "123"]),
        "dialogues": dialogues,
        "turns": turns,
        "prompts": table("prompts", prompts),
    }
    human = reference.read(ROOT / "data" / "human")
    evaluation = evaluate("run", human=human, domain=MOVIES, n_bootstrap=10, seed=0, **tables)
    tables |= {name: getattr(evaluation, name) for name in ("scores", "metrics", "resamples")}
    for name, frame in tables.items():
        frame.write_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


def imported(module: ModuleType) -> set[str]:
    """The modules and names that a module imports from crslib."""
    names = set()
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] == "crslib"}


def test_no_metric_comes_from_the_library() -> None:
    assert imported(recompute) == set()
    readers = {"dialogue.acts", "engines.llama", "metrics.consistency.attributes_said", "dialogue.stances.statements"}
    readers |= {"dialogue.reactions.react", "recommender.prior.ItemPrior", "recommender.prior.Utterance"}
    readers |= {"data.corpora.frames", "data.corpora.redial", "dialogue.form", "dialogue.credits.Credits"}
    readers |= {f"dialogue.claims.{name}" for name in ("answers", "claims", "questions")}
    same_draws_and_models = {"identity.derive_seed", "dialogue.templates.ChatTemplate", "config.SimulationParameters"}
    same_draws_and_models |= {"engines.loading.engine_files", "engines.weights", "training.examples.examples"}
    same_draws_and_models |= {"training.knowledge.Knowledge"}
    assert imported(readings) == {f"crslib.{name}" for name in readers | same_draws_and_models}


def test_equal_metrics_pass_and_others_are_reported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recompute.main([str(run), "--draws", "5"]) == 0, capsys.readouterr().out
    metrics = pl.read_parquet(run / "metrics.parquet")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[:-1]}
    assert lines.keys() == set(metrics["metric"])
    assert {name for name, line in lines.items() if "not recomputed" in line} <= recompute.NOT_RECOMPUTED.keys()
    value = dict(metrics.select("metric", "value").iter_rows())
    assert value["leaked_titles"] == 2 and value["leaked_profiles"] == 1, "what was planted"

    wrong = metrics.with_columns(value=pl.col("value") + (pl.col("metric") == "recall_at_3") * 0.01)
    wrong = pl.concat([wrong.filter(pl.col("metric") != "turns"), wrong.head(1).with_columns(metric=pl.lit("new_one"))])
    wrong.write_parquet(run / "metrics.parquet")
    assert recompute.main([str(run), "--draws", "2"]) == 1
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[:-1]}
    assert {name for name, line in lines.items() if "DIFFERS" in line} == {"recall_at_3", "turns"}
    assert lines["new_one"].endswith("not recomputed: this script does not know it")


def test_metrics_that_need_human_texts_are_equal(run: Path) -> None:
    draw = random.Random(2)
    texts = [[one for one in some_talk(draw) if len(one) > 3] for _ in range(90)]
    human = [
        Dialogue(f"h{n:02d}", f"u{n}", f"r{n % 20}", merge_messages(_messages(talk)), ITEMS)
        for n, talk in enumerate(texts)
    ]
    train = frames(human)[1]
    with recompute.opened(run, ROOT / "data" / "human") as con:
        turns = con.sql("FROM turns").pl()
        recomputed = readings.two_sample(con, human, 7) | readings.cross_entropy(con, train)
    results = {
        **ngram.evaluate(turns, train, train, times=1, seed=7).by_metric,
        **two_sample.evaluate(turns, human, MOVIES.mask, times=1, seed=7).by_metric,
    }
    assert {f"{role}_two_sample_form" for role in readings.ROLES} <= results.keys()
    values = {name: result.estimate.value for name, result in results.items()}
    assert recomputed == pytest.approx(values, abs=1e-12)


ITEMS = {name: Item(name, None, None, None, "") for name in TITLES}


def _messages(talk: list[str]) -> list[tuple[str, str, list[str]]]:
    return [({"U": "user", "R": "recommender"}[one[0]], one[3:], [n for n, *_ in mentions(one)]) for one in talk]
