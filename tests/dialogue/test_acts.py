import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from crslib.data.corpora import iard
from crslib.dialogue import acts
from crslib.dialogue.acts import SCHEMA, Tagger
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError


def turns(*texts: str, dialogue_id: str = "d") -> pl.DataFrame:
    """Turns `U: …` and `R: …` of one dialogue."""
    rows = [(dialogue_id, n, USER if t[0] == "U" else RECOMMENDER, t[3:]) for n, t in enumerate(texts)]
    schema = {"dialogue_id": pl.String, "turn": pl.Int32, "role": pl.String, "text": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def features(*texts: str) -> list[set[str]]:
    return [set(row) for row in acts.features(turns(*texts))["features"]]


def test_features_are_words_pairs_and_context() -> None:
    first, second = features("R: Seen [[Up (2009)]]?", "U: I've SEEN it!")
    assert first == {"seen", "ITEM", "?", "seen ITEM", "ITEM ?", "(opens)", "(own first turn)", "(new item)"}
    assert second == {
        "i've", "seen", "it", "!", "i've seen", "seen it", "it !",
        "(own first turn)", "(after a question)", "(after an item)",
    }  # fmt: skip


def test_features_say_who_named_a_film_first() -> None:
    rows = features("U: [[Up (2009)]]", "R: [[up (2009)]] [[Heat (1995)]]", "U: [[Heat (1995)]]", "U: [[Up (2009)]]")
    films = [{name for name in row if "item" in name and name != "(after an item)"} for row in rows]
    assert films == [
        {"(new item)"}, {"(new item)", "(other's item again)"}, {"(other's item again)"}, {"(own item again)"},
    ]  # fmt: skip


def test_features_do_not_cross_dialogues() -> None:
    both = pl.concat([turns("U: [[Up (2009)]]?", dialogue_id="a"), turns("R: [[Up (2009)]]", dialogue_id="b")])
    assert set(acts.features(both)["features"][1]) == {"ITEM", "(opens)", "(own first turn)", "(new item)"}


def test_any_text_has_features() -> None:
    strange = "U: <b>\x00\x1b[0m</b> &amp; [[]] [[x]] ]] ‮ ITEM 映画 {{ 1 }} \\N"
    (row,) = features(strange)
    assert {"b", "0m", "amp", "ITEM", "item", "映画", "1", "n"} <= row
    assert acts.read().tag(turns(strange)).height >= 1


WEIGHTS = {
    USER: pl.DataFrame({"feature": ["(bias)", "hi", "!"], "greet": [-1.0, 2.0, 0.0], "shout": [-1.0, 0.5, 0.4]}),
    RECOMMENDER: pl.DataFrame({"feature": ["(bias)", "?"], "ask": [-1.0, 1.0]}),
}


def test_tags_computed_by_hand() -> None:
    tagged = Tagger(WEIGHTS).tag(turns("U: Hi hi!", "R: Why?", "U: no", "R: "))
    # Hi hi!: greet −1 + 2, shout −1 + 0.5 + 0.4; Why?: 0 is enough; no: none reaches 0, so the first of the highest.
    assert tagged.schema == pl.Schema(SCHEMA)
    assert tagged.rows() == [("d", 0, "user", "greet"), ("d", 1, "recommender", "ask"), ("d", 2, "user", "greet")]
    assert Tagger(WEIGHTS).tag(turns("U: ")).is_empty()
    with pytest.raises(CrsError, match="role 'user' have no acts; roles are recommender"):
        Tagger({RECOMMENDER: WEIGHTS[RECOMMENDER]}).tag(turns("U: hi"))


def labelled() -> pl.DataFrame:
    """Forty dialogues: greetings, questions, and films that are named with or without one."""
    generator = np.random.default_rng(0)
    words = {"hi": "hello there", "ask": "what do you like ?", "name": "try [[Up (2009)]]"}
    frames = []
    for number in range(40):
        texts, labels = [], []
        for place in range(4):
            chosen = [act for act in words if generator.random() < 0.5] or ["hi"]
            texts.append(f"{'UR'[place % 2]}: {' '.join(words[act] for act in chosen)}")
            labels.append([*chosen, "noise"] if generator.random() < 0.2 else chosen)
        frames.append(turns(*texts, dialogue_id=f"{number:02d}").with_columns(acts=pl.Series(labels)))
    return pl.concat(frames)


def test_stored_weights_score_as_scikit_learn_does(tmp_path: Path) -> None:
    examples = labelled()
    tagger = acts.fit(examples)
    acts.write(tagger, tmp_path)
    rows = [{"role": "user", "act": "hi", "f1": 0.5}]
    (tmp_path / acts.FIGURES).write_text(json.dumps({"cross_validation": rows}), encoding="utf-8")
    stored = acts.read(tmp_path)
    assert stored.identity == tagger.identity
    assert stored.accuracy == {("user", "hi"): 0.5}
    rows = acts.features(examples).join(examples.select("dialogue_id", "turn", "acts"), on=["dialogue_id", "turn"])
    for role, table in stored.weights.items():
        part, names = rows.filter(role=role), table.columns[1:]
        assert names == ["ask", "hi", "name", "noise"]
        present = np.array([[name in row for name in table["feature"][1:]] for row in part["features"]], dtype=float)
        scores = stored.scores(part["features"], role)
        for place, name in enumerate(names):
            has = part["acts"].list.contains(name).to_numpy()
            reference = LogisticRegression(C=0.3, solver="liblinear").fit(present, has).decision_function(present)
            shift = reference - scores[:, place]  # only the bias differs: it makes acts as frequent as in the labels
            assert shift == pytest.approx(shift.mean(), abs=0.001 * table.height)
            if name != "noise":
                assert ((scores[:, place] >= 0) == has).all()


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"figures.json is missing or damaged; write it with `crs data acts"):
        acts.read(tmp_path)
    (tmp_path / acts.FIGURES).write_text('{"cross_validation": []}', encoding="utf-8")
    with pytest.raises(CrsError, match=r"user.csv is missing or damaged"):
        acts.read(tmp_path)
    (tmp_path / "user.csv").write_text("feature,act\n(bias),x\n", encoding="utf-8")
    with pytest.raises(CrsError, match=r"user.csv is missing or damaged"):
        acts.read(tmp_path)


def test_an_unknown_code_is_named() -> None:
    strange = turns("U: hi").with_columns(acts=pl.Series([["XYZ"]]))
    with pytest.raises(CrsError, match="'XYZ' is no act of a user in IARD; its acts are IQU, CON"):
        acts.named(strange)


def test_the_shipped_tagger_is_small_and_has_no_sentences() -> None:
    tagger = acts.read()
    assert sum(path.stat().st_size for path in acts.FOLDER.iterdir()) < 200_000
    for role, table in tagger.weights.items():
        assert max(len(feature.split(" ")) for feature in table["feature"] if feature[0] != "(") == 2
        assert set(table.columns[1:]) == set(acts.NAMES[role].values())
        assert all((role, act) in tagger.accuracy for act in table.columns[1:])


def test_the_shipped_tagger_reads_plain_cases() -> None:
    tagged = acts.read().tag(
        turns(
            "R: Hello! What kind of movies do you like?",
            "U: Hi, I am looking for a good comedy",
            "R: Have you seen [[Up (2009)]] ?",
            "U: I have not seen it, I will check it out, thanks!",
            "R: You're welcome, bye",
        )
    )
    acts_of = {turn: set(part["act"]) for (turn,), part in tagged.group_by("turn")}
    assert acts_of[0] == {"other", "request"}
    assert "first query" in acts_of[1]
    assert acts_of[2] == {"recommend by asking"}
    assert {"accept", "other"} <= acts_of[3]
    assert acts_of[4] == {"other"}


def test_training_again_gives_the_shipped_weights_byte_for_byte(shared_data: Path, tmp_path: Path) -> None:
    training = acts.named(iard.read(shared_data / "iard")).filter(split="train")
    acts.write(acts.fit(training), tmp_path)
    for role in (USER, RECOMMENDER):
        assert (tmp_path / f"{role}.csv").read_bytes() == (acts.FOLDER / f"{role}.csv").read_bytes()
