"""Metrics of `recompute` that need more than a run's tables: acts, phrase patterns, item prior, human texts, models.

The readings themselves come from crslib: the tagger's acts of a turn, what the phrase patterns read in an answer, the
prior's scores, the states of a language model. All that is computed from them is implemented again with well-known
libraries. Nothing else of crslib is imported, which a test asserts.
"""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
from scipy import linalg, stats
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax

from crslib.data.corpora import frames, redial
from crslib.dialogue import acts as tagger
from crslib.dialogue import form
from crslib.dialogue.claims import answers as answers_to
from crslib.dialogue.claims import claims, questions
from crslib.dialogue.credits import Credits
from crslib.dialogue.reactions import react
from crslib.dialogue.stances import statements
from crslib.identity import derive_seed
from crslib.metrics.consistency import attributes_said
from crslib.recommender.prior import ItemPrior, Utterance
from tests.support.domains import MOVIES

ROLES = ("user", "recommender")
FILM = re.compile(r"\[\[[^\[\]]+\]\]")
Values = dict[str, float]


def human_dialogues(path: Path) -> tuple[Any, pl.DataFrame]:
    """ReDial's test dialogues, and the turns (table `turns`) of its training dialogues."""
    return redial.read(path, "test"), frames(redial.read(path, "train"))[1]


def spoken(turns: pl.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """The turns of each dialogue, without silent ones."""
    texts = turns.filter(pl.col("text").str.strip_chars() != "").sort("dialogue_id", "turn")
    for _, talk in texts.group_by("dialogue_id", maintain_order=True):
        yield talk.to_dicts()


# ── dialogue acts ───────────────────────────────────────────────────────────────────────────────────────────────────


def acts(con: duckdb.DuckDBPyConnection, human: Path) -> Values:
    sides = [
        _grams(acts)
        for acts in (tagger.read().tag(con.sql("FROM turns").pl()), pl.read_parquet(human / "acts.parquet"))
    ]
    values = {}
    for name in ("act", "act_bigram"):
        for role in ("", *ROLES):
            simulated, of_humans = (side[name, role] for side in sides)
            if simulated and of_humans:
                both = sorted(simulated | of_humans)
                distance = jensenshannon([simulated[gram] for gram in both], [of_humans[gram] for gram in both], base=2)
                values[f"{role}_{name}_divergence".removeprefix("_")] = float(distance) ** 2
    return values


def _grams(acts: pl.DataFrame) -> Mapping[tuple[str, str], Counter[tuple[str, ...]]]:
    """(act or act_bigram, role or "") → weight of each gram; each turn, or two in a row, has weight 1."""
    grams_of: Mapping[tuple[str, str], Counter[tuple[str, ...]]] = defaultdict(Counter)
    turns = acts.sort("dialogue_id", "turn", "act").group_by("dialogue_id", "turn", "role", maintain_order=True)
    before, last = None, []
    for (dialogue, _, role), turn in turns:
        acts_here = [(str(role), act) for act in turn["act"]]
        pairs = [(*first, *second) for first in last for second in acts_here] if dialogue == before else []
        for name, grams in (("act", acts_here), ("act_bigram", pairs)):
            for scope in ("", str(role)):
                for gram in grams:
                    grams_of[name, scope][gram] += 1 / len(grams)
        before, last = dialogue, acts_here
    return grams_of


# ── phrase patterns ─────────────────────────────────────────────────────────────────────────────────────────────────


def answers(con: duckdb.DuckDBPyConnection) -> Values:
    turns, titles = con.sql("FROM turns").pl(), dict(con.sql("SELECT item_id, title FROM items").fetchall())
    profiles = {row["dialogue_id"]: row for row in con.sql("FROM wishes").pl().iter_rows(named=True)}
    seen: defaultdict[str, list[float]] = defaultdict(list)
    for talk in spoken(turns):
        for asked, reply in pairwise(talk):
            if (asked["role"], reply["role"]) == ("recommender", "user"):
                for name, value in _reactions(asked, reply):
                    seen[name].append(value)
    for turn in turns.filter(role="user").sort("dialogue_id", "turn").iter_rows(named=True):
        profile = profiles[turn["dialogue_id"]]
        good = {*(profile["liked_kinds"] or ()), *(titles.get(item) for item in profile["loved_items"] or ())}
        for about, says, _ in statements(turn, profile, titles, MOVIES):
            seen["contradictions"].append(says != ("likes" if about in good else "dislikes"))
    covered: defaultdict[str, list[bool]] = defaultdict(list)
    heads = [con.sql(f"FROM {name}").pl() for name in ("dialogues", "profiles")]
    for dialogue, _, turn in attributes_said(turns, *heads, MOVIES).iter_rows():
        covered[dialogue].append(turn is not None)
    seen["attribute_coverage"] = [float(np.mean(values)) for values in covered.values()]
    by_then: defaultdict[str, list[bool]] = defaultdict(list)
    for dialogue, _, turn in attributes_said(turns, *heads, MOVIES).iter_rows():
        by_then[dialogue].append(turn is not None and turn < 4)
    seen["wishes_said"] = [float(np.mean(values)) for values in by_then.values()]
    return {name: float(np.mean(values)) for name, values in seen.items() if values}


def _reactions(asked: Mapping[str, Any], reply: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """(metric, yes or no) for every item that the turn before the answer named."""
    notes = {_key(note): (note["seen"], note["liked"]) for note in reply["notes"]}
    named = {_key(item) for item in asked["items"]}
    for item in named:
        says = react(asked["text"], reply, item, MOVIES, alone=len(named) == 1)
        if says.liked is not None:
            yield "acceptance", says.liked
        note = notes.get(item, (None, None))
        if note == (None, None):
            continue
        both = [(a, b) for a, b in zip(note, (says.seen, says.liked), strict=True) if None not in (a, b)]
        yield "reactions_decidable", bool(both)
        if both:
            agrees = all(a == b for a, b in both)
            yield "reaction_consistency", agrees
            if None not in note:
                liked = ("liked", "disliked") if note[0] else ("interested", "uninterested")
                yield f"consistency_{'seen' if note[0] else 'unseen'}_{liked[0] if note[1] else liked[1]}", agrees


def later_consistency(con: duckdb.DuckDBPyConnection) -> Values:
    """What users say of items that they name again, against their last note on them."""
    agreed: list[bool] = []
    for talk in spoken(con.sql("FROM turns").pl()):
        notes: dict[Any, tuple[bool | None, bool | None]] = {}
        for turn in talk:
            now = {_key(note): (note["seen"], note["liked"]) for note in turn["notes"]}
            for item in (
                {_key(item) for item in turn["items"]} & notes.keys() - now.keys() if turn["role"] == "user" else ()
            ):
                says = react("", turn, item, MOVIES, alone=False)
                both = [a == b for a, b in zip(notes[item], (says.seen, says.liked), strict=True) if None not in (a, b)]
                agreed += [all(both)] if both else []
            notes |= now
    return {"later_consistency": float(np.mean(agreed))} if agreed else {}


def truth(con: duckdb.DuckDBPyConnection) -> Values:
    """Statements and questions as the phrases read them, compared with the catalogue by full and last names."""
    items = con.sql("FROM items").pl()
    credits, rows = Credits.of(items, MOVIES), {row["item_id"]: row for row in items.iter_rows(named=True)}
    seen: defaultdict[str, list[bool]] = defaultdict(list)
    for talk in spoken(con.sql("FROM turns").pl()):
        for number, turn in enumerate(talk):
            if turn["role"] != "recommender":
                continue
            stated = [(claim.kind == "year", _true(claim, rows[claim.item_id])) for claim in claims(
                turn, talk[:number], credits)]  # fmt: skip
            for _, true in stated:
                seen["facts_decidable"].append(true is not None)
                seen["facts_true"] += [] if true is None else [true]
            if not number or talk[number - 1]["role"] != "user":
                continue
            for kind in sorted(set(questions(talk[number - 1], MOVIES))):
                answered = answers_to(kind, turn, talk[:number], credits)
                seen["questions_answered"].append(answered)
                truths = [true for is_year, true in stated if is_year == (kind == "when")]
                if kind != "about" and (not answered or {True, False} & set(truths)):
                    seen["true_answers"].append(answered and set(truths) == {True})
    return {name: float(np.mean(values)) for name, values in seen.items() if values}


def _true(claim: Any, row: Mapping[str, Any]) -> bool | None:
    if claim.kind == "year":
        year = row["year"]
        return None if year is None else str(year).startswith(claim.value[:3] if "s" in claim.value else claim.value)
    sides = {"people": row["people"], "maker": row["makers"], "person": [*row["people"], *row["makers"]]}
    name, among = (
        _words(claim.value.replace(".", "")),
        [_words(person.replace(".", "")) for person in sides[claim.kind]],
    )
    if name in among or any(len(name) == 1 and name[0] == person[-1] for person in among):
        return True
    if claim.kind == "people" and name in [_words(person.replace(".", "")) for person in row["makers"]]:
        return None
    known = row["people"] and row["makers"] if claim.kind == "person" else sides[claim.kind]
    return False if known else None


def repetition(con: duckdb.DuckDBPyConnection) -> Values:
    """Utterances that say something twice, and sentences of earlier turns."""
    seen: defaultdict[str, list[bool]] = defaultdict(list)
    for talk in spoken(con.sql("FROM turns").pl()):
        earlier: defaultdict[str, list[list[str]]] = defaultdict(list)
        for turn in talk:
            whole = [FILM.sub(lambda film: f" f{abs(hash(film[0]))} ", part) for part in _parts(turn["text"])]
            long = [" ".join(words) for words in map(_words, whole) if len(words) > 1]
            flat = [word for part in whole for word in _words(part)]
            runs = [" ".join(flat[at : at + 4]) for at in range(len(flat) - 3)]
            twice = any(n > 1 for counts in (Counter(long), Counter(runs)) for n in counts.values())
            seen[f"{turn['role']}_self_repetition"].append(twice)
            own = [words for part in _parts(turn["text"]) if len(words := _words(FILM.sub(" film ", part))) > 2]
            seen[f"{turn['role']}_said_again"] += [words in earlier[turn["role"]] for words in own]
            earlier[turn["role"]] += own
    return {name: float(np.mean(values)) for name, values in seen.items() if values}


def _parts(text: str) -> list[str]:
    """The sentences of a text; marks within titles end none."""
    titles = FILM.findall(text)
    parts = re.split(r"[.!?;\n]", FILM.sub("\ue000", text))
    named = iter(titles)
    return [re.sub("\ue000", lambda _: next(named), part) for part in parts]


def _key(item: Mapping[str, Any]) -> str:
    return item["item_id"] or f"title: {item['title'].lower()}"


# ── guesswork ───────────────────────────────────────────────────────────────────────────────────────────────────────


def guesswork(con: duckdb.DuckDBPyConnection, first: Mapping[tuple[str, str], Mapping[str, int]]) -> Values:
    """`first`: (dialogue, target) → role → the first turn in which it names the target."""
    prior = ItemPrior.fit(con.sql("FROM items").pl(), con.sql("FROM ratings").pl(), MOVIES)
    attributes = dict(con.sql("SELECT dialogue_id, attributes FROM wishes").fetchall())
    talks: defaultdict[str, list[Utterance]] = defaultdict(list)
    for turn in con.sql("FROM turns").pl().filter(role="user").sort("dialogue_id", "turn").iter_rows(named=True):
        ids = [item["item_id"] for item in turn["items"]]
        talks[turn["dialogue_id"]].append(Utterance("user", turn["text"], ids))
    wanted: defaultdict[str, list[tuple[str, bool]]] = defaultdict(list)
    for (dialogue, item), turns in first.items():
        if "user" not in turns or turns["user"] < turns.get("recommender", 10**9):
            wanted[dialogue].append((item, "user" in turns))
    bits: defaultdict[str, list[float]] = defaultdict(list)
    for dialogue, targets in wanted.items():
        linked = {item for spoken in talks[dialogue] for item in spoken.items} - {item for item, _ in targets}
        evidence = {
            "words": talks[dialogue],
            "attributes": [Utterance("user", attributes[dialogue] or "")],
            "nothing": [],
        }
        means = {}
        for name, spoken in evidence.items():
            score = {i: s for i, s in zip(prior.item_ids, prior.log_prior(spoken), strict=True) if i not in linked}
            left = np.array(list(score.values()))
            places = [
                1.0 if named and name == "words" else (left > score[i]).sum() + ((left == score[i]).sum() + 1) / 2
                for i, named in targets
            ]
            means[name] = float(np.mean(np.log2(places)))
        for name, value in {**means, "saved": means["attributes"] - means["words"]}.items():
            bits[f"guesswork_{name}"].append(value)
    return {name: float(np.mean(values)) for name, values in bits.items()}


# ── human texts ────────────────────────────────────────────────────────────────────────────────────────────────────


def two_sample(con: duckdb.DuckDBPyConnection, human: Any, seed: int) -> Values:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    tfidf = {"lowercase": False, "ngram_range": (1, 2), "min_df": 2, "sublinear_tf": True}
    judges = {
        "two_sample": (TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", **tfidf), 10, "FILM"),
        "two_sample_length": (
            make_pipeline(FunctionTransformer(_lengths), OneHotEncoder(handle_unknown="ignore")), 10, "FILM"
        ),
        "two_sample_form": (make_pipeline(FunctionTransformer(_forms), StandardScaler()), 0.1, None),
    }  # fmt: skip
    simulated, spoken = con.sql("FROM turns").pl(), frames(human)[1]
    accuracies = {}
    for role in ROLES:
        person = {one.dialogue_id: {"user": one.user, "recommender": one.recommender}[role] for one in human}
        for name, (reader, strength, film) in judges.items():
            second = name == "two_sample_form"
            read = [d for d, who in person.items() if (derive_seed(0, "second judge", who) % 2 == 0) == second]
            theirs = spoken.filter(pl.col("dialogue_id").is_in(read))
            sides = [_masked(frame, role, film) for frame in (simulated, theirs)]
            if (n := min(map(len, sides))) < 10:
                continue
            rows = []
            for side, talks in enumerate(sides):
                order = sorted(talks, key=lambda dialogue: derive_seed(seed, "two samples", dialogue))
                group = person if side else {}
                rows += [(text, side, f"{side}:{group.get(d, d)}") for d in sorted(order[:n]) for text in talks[d]]
            texts, side, groups = (np.array(column) for column in zip(*rows, strict=True))
            regression = LogisticRegression(C=strength, max_iter=1000, class_weight="balanced")
            classifier = make_pipeline(reader, regression)
            predicted = cross_val_predict(classifier, texts, side, groups=groups, cv=GroupKFold(5))
            accuracies[f"{role}_{name}"] = float(balanced_accuracy_score(side, predicted))
    return accuracies


def _lengths(texts: np.ndarray) -> np.ndarray:
    return np.array([[min(len(_words(text)), 40)] for text in texts])


def _forms(texts: np.ndarray) -> np.ndarray:
    return np.array([form.features(text) for text in texts])


def _masked(turns: pl.DataFrame, role: str, film: str | None = "FILM") -> dict[str, list[str]]:
    """Each dialogue's texts of `role`, a film as the word `film`; None: as they are."""
    talks: dict[str, list[str]] = {}
    for row in turns.filter(role=role).sort("dialogue_id", "turn").iter_rows(named=True):
        if text := " ".join(FILM.sub(f" {film} ", row["text"]).split() if film else row["text"].split()):
            talks.setdefault(row["dialogue_id"], []).append(text)
    return talks


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)*", text.lower().replace("’", "'"))


def cross_entropy(con: duckdb.DuckDBPyConnection, train: pl.DataFrame) -> Values:
    """Nats per word and end of turn under interpolated Kneser–Ney trigrams of `train`."""
    values = {}
    for role in ROLES:
        nats = kneser_ney(list(_tokens(train, role)))
        utterances = list(_tokens(con.sql("FROM turns").pl(), role))
        if utterances:
            values[f"{role}_cross_entropy"] = sum(map(nats, utterances)) / sum(len(words) + 1 for words in utterances)
    return values


def _tokens(turns: pl.DataFrame, role: str) -> Iterator[list[str]]:
    for text in turns.filter(pl.col("role") == role, pl.col("text").str.strip_chars() != "")["text"]:
        parts = FILM.split(text)
        yield [word for part in parts for word in (*_words(part), "<film>")][:-1]


def kneser_ney(utterances: Sequence[Sequence[str]]) -> Any:
    """The function that gives an utterance's −log P, its end included."""
    counts = Counter(word for words in utterances for word in words)
    known = {word for word, n in counts.items() if n > 1}

    def trigrams(words: Sequence[str]) -> Iterable[tuple[str, ...]]:
        whole = ["<s>", "<s>", *(word if word in known else "<rare>" for word in words), "</s>"]
        return zip(whole, whole[1:], whole[2:], strict=False)

    orders = [Counter(gram for words in utterances for gram in trigrams(words))]
    for _ in range(2):  # shorter n-grams count the contexts they occur in
        orders.insert(0, Counter(gram[1:] for gram in orders[0]))
    after = [defaultdict[tuple[str, ...], Counter[str]](Counter) for _ in orders]
    for table, grams in zip(after, orders, strict=True):
        for gram, n in grams.items():
            table[gram[:-1]][gram[-1]] = n
    once, twice = ([sum(n == k for n in grams.values()) for grams in orders] for k in (1, 2))
    discounts = [n / (n + 2 * m) if n else 0.5 for n, m in zip(once, twice, strict=True)]

    def probability(gram: tuple[str, ...]) -> float:
        if not gram:
            return 1 / len(known | {"<rare>", "</s>"})
        follow, discount = after[len(gram) - 1][gram[:-1]], discounts[len(gram) - 1]
        if not follow:
            return probability(gram[1:])
        backed = discount * len(follow) * probability(gram[1:])
        return (max(follow[gram[-1]] - discount, 0) + backed) / follow.total()

    rare = max(1, len(counts) - len(known))
    return lambda words: (
        -sum(np.log(probability(gram)) for gram in trigrams(words))
        + np.log(rare) * sum(word not in known for word in words)
    )


# ── models ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def embeddings(con: duckdb.DuckDBPyConnection, human: Path, draws: int) -> tuple[Values, dict[str, list[float]]]:
    """The Fréchet distances, and the Vendi scores of `draws` samples of 30 turns."""
    from crslib.engines import llama

    source = json.loads((human / "embeddings.json").read_text(encoding="utf-8"))["source"]
    axes, places = pl.read_parquet(human / "axes.parquet"), pl.read_parquet(human / "embeddings.parquet")
    distances, scores = {}, {}
    draw = np.random.default_rng(20261123)
    with (
        closing(llama.Model(llama.model_path(llama.BUILT_IN))) as model,
        closing(llama.LayerReader(model, source["layer"], source["prefix"], threads=os.cpu_count() or 1)) as reader,
    ):
        for role in ROLES:
            talks = _masked(con.sql("FROM turns").pl(), role)
            texts = {text for of_dialogue in talks.values() for text in of_dialogue}
            state = {text: reader.states(text).mean(axis=0, dtype=float) for text in texts}
            centre, scale, *basis = axes.filter(role=role).sort("row")["values"].to_numpy().astype(float)
            turns = [
                np.array([(state[text] - centre) / scale for text in of_dialogue]) for of_dialogue in talks.values()
            ]
            if sum(map(len, turns)) >= 10 * len(basis):
                simulated = np.concatenate(turns) @ np.array(basis).T
                of_humans = places.filter(role=role)["place"].to_numpy() / 1000
                simulated_covariance, human_covariance = (
                    np.cov(side, rowvar=False, bias=True) for side in (simulated, of_humans)
                )
                between = ((simulated.mean(axis=0) - of_humans.mean(axis=0)) ** 2).sum()
                root = linalg.sqrtm(simulated_covariance @ human_covariance).real
                distances[f"{role}_frechet"] = float(
                    between + np.trace(simulated_covariance + human_covariance - 2 * root)
                )
            if len(turns) >= 30:
                samples = [
                    np.array([turns[i][draw.integers(len(turns[i]))] for i in draw.permutation(len(turns))[:30]])
                    for _ in range(draws)
                ]
                scores[f"{role}_vendi"] = [_vendi(sample) for sample in samples]
    return distances, scores


def _vendi(sample: np.ndarray) -> float:
    unit = sample / np.linalg.norm(sample, axis=1, keepdims=True)
    values = np.linalg.svd(unit, compute_uv=False) ** 2  # the eigenvalues of their cosines
    return float(np.exp(stats.entropy(values)))


def foresight(run: Mapping[str, Any], test: Any) -> Values:
    """Nats per own token of 50 human dialogues under the run's models, by llama-cpp-python's own `Llama`."""
    from llama_cpp import Llama

    from crslib.config import SimulationParameters
    from crslib.dialogue.templates import ChatTemplate
    from crslib.engines import llama, weights
    from crslib.engines.loading import engine_files
    from crslib.training.examples import examples
    from crslib.training.knowledge import Knowledge

    known = Knowledge(redial.items(), test, MOVIES)
    given = SimulationParameters(**{name: run[name] for name in SimulationParameters.model_fields})
    order = sorted(test, key=lambda dialogue: derive_seed(0, "measured", dialogue.dialogue_id))[:50]
    values = {}
    for role in ROLES:
        path, adapter, _ = engine_files(given, given.model(role), given.adapter(role))
        kind = run["baseline"] or role if role == "user" else role
        trained = llama.adapter_path(given.adapter(role))
        parts = weights.parts_of(trained) if trained else ()
        held = {"notes": given.memory, "style": "style" in parts if given.styles == "auto" else bool(given.styles)}
        held["facts"] = "facts" in parts if given.facts == "auto" else given.facts == "always"
        without = {part for part, is_held in held.items() if not is_held}
        with closing(llama.Model(path)) as speaker:
            template = ChatTemplate(*speaker.chat_template)
            rows = examples(order, kind, speaker, template, known, without=without, max_tokens=1024)
        reader = Llama(str(path), lora_path=adapter and str(adapter), n_ctx=1025, logits_all=True, verbose=False)
        nats = []
        for tokens, own in rows.select("tokens", "target").iter_rows():
            reader.reset()
            reader.eval(tokens)
            at = np.flatnonzero(own)
            nats += [*-log_softmax(reader.scores[at - 1].astype(float), axis=1)[range(len(at)), np.array(tokens)[at]]]
        values[f"{role}_people_cross_entropy"] = float(np.mean(nats))
    return values
