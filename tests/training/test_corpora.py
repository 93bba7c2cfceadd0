"""Imported corpora as training examples: the same as from ReDial's own files, and no view holds what was to be found
before somebody names it."""

import json
import re
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crslib.data.catalog import Catalog
from crslib.data.corpora import folder, importing, pearl
from crslib.data.corpora.folder import Corpus
from crslib.data.corpora.linking import linked
from crslib.dialogue.scripts import USER_TARGET
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.engines.scripted import ScriptedEngine
from crslib.errors import CrsError
from crslib.training import run
from crslib.training.examples import ROLES, examples, view
from crslib.training.knowledge import Knowledge, targets
from crslib.training.parameters import TrainingParameters
from tests.support import corpora
from tests.support.domains import MOVIES
from tests.support.fuzz import tries

TOKENIZER, TEMPLATE = ScriptedEngine(lambda prompt, seed: ""), ChatTemplate("")


def rows(corpus: Corpus, role: str) -> pl.DataFrame:
    known = Knowledge(corpus.items, corpus.dialogues, corpus.domain)
    return examples(corpus.dialogues, role, TOKENIZER, TEMPLATE, known)


@pytest.mark.parametrize("role", ROLES)
def test_redial_gives_the_same_examples_by_either_way_and_form(role: str, tmp_path: Path) -> None:
    official, hub = (corpora.redial(tmp_path / form / "train.jsonl", form == "hub") for form in made(tmp_path))
    importing.import_dialogues(hub, "redial", tmp_path / "to")
    ways = [
        run.training_corpus(TrainingParameters(redial=str(official.parent))),
        run.training_corpus(TrainingParameters(redial=str(hub.parent))),
        run.training_corpus(TrainingParameters(corpus=str(tmp_path / "to"))),
    ]
    first, *others = (rows(corpus, role) for corpus in ways)
    assert first.height == 2
    assert all(first.equals(other) for other in others)
    assert ways[0].credit == "ReDial's training part (Li et al. 2018, CC BY 4.0)"
    assert ways[2].credit.endswith("NeurIPS 2018; its train part")


def made(tmp_path: Path) -> tuple[str, str]:
    for form in ("official", "hub"):
        (tmp_path / form).mkdir()
    return "official", "hub"


def test_a_view_of_redial_has_every_title(tmp_path: Path) -> None:
    importing.import_dialogues(corpora.redial(tmp_path / "train.jsonl", hub=True), "redial", tmp_path / "to")
    corpus = run.training_corpus(TrainingParameters(corpus=str(tmp_path / "to")))
    seen = view(corpus.dialogues[0], USER, Knowledge(corpus.items, corpus.dialogues, corpus.domain)).messages
    assert [message.text for message in seen][1:] == [
        "Hi, I liked [[Super Troopers (2001)]] a lot",
        "Then try [[Iron Man (2008)]] or [[Pineapple Express]]\n"
        "(Iron Man (2008): not seen, interested; Pineapple Express: seen, disliked)",
        "Thanks, bye",
    ]


def test_nothing_is_trained_on_a_test_part(tmp_path: Path) -> None:
    importing.import_dialogues(corpora.redial(tmp_path / "test.jsonl", hub=True), "redial", tmp_path / "to")
    with pytest.raises(CrsError, match="is the test part of ReDial; train on another part of it"):
        run.training_corpus(TrainingParameters(corpus=str(tmp_path / "to")))


def test_pearls_seeker_knows_its_persona_and_remembers_what_it_saw(tmp_path: Path) -> None:
    importing.import_dialogues(corpora.pearl(tmp_path / "train.json"), "pearl", tmp_path / "to")
    corpus = folder.read(tmp_path / "to")
    known = Knowledge(corpus.items, corpus.dialogues, corpus.domain)
    first = corpus.dialogues[0]
    seen = view(first, USER, known).messages
    assert seen[0].text.split("\n")[1:] == [
        "About you: Slow stories about families won the seeker over in Heat. Loud sequels tire them. They would watch "
        "anything with Ada Moon.",
        "Looking for: drama/romance movie",
    ]
    assert "Quiet Harbour" not in "".join(message.text for message in seen[:2])
    heard = view(first, RECOMMENDER, known).messages
    assert heard[0].text == "You are a movie recommender."  # nothing of the persona, nothing to be found
    # The film's facts are looked up once it is named.
    looked_up = "(The Quiet Harbour (1996): drama/mystery/romance, by Ada Moon, with Ben Vale, Cy Orr; Up (2009): "
    assert looked_up in heard[-2].text
    assert targets(first) == ["title: the quiet harbour (1996)"]
    assert "The Quiet Harbour (1996)" in view(first, USER_TARGET, known).messages[0].text  # the baseline knows it


@pytest.mark.parametrize(("form", "name"), [("inspired", "train.tsv"), ("ccpe", "data.json"), ("cikm", "train.jsonl")])
def test_a_corpus_without_answers_gives_views_without_their_lines(form: str, name: str, tmp_path: Path) -> None:
    importing.import_dialogues(getattr(corpora, form)(tmp_path / name), form, tmp_path / "to")
    corpus = run.training_corpus(TrainingParameters(corpus=str(tmp_path / "to")))
    known = Knowledge(corpus.items, corpus.dialogues, corpus.domain)
    told = [view(dialogue, USER, known).messages for dialogue in corpus.dialogues]
    assert told
    for chat in told:
        assert "About you:" not in chat[0].text
        assert not re.search("seen|liked", "".join(message.text for message in chat[1:] if "\n" in message.text))


SENTENCES = ["I like slow films.", "Heat bored me!", "What a up and down...", "Best of all is", "Mr.", "(1999)", "no."]
TITLES = ["Mr. Nobody (2009)", "Up (2009)", "WALL·E (2008)", "Nope! (2022)", "Amélie", "The Quiet Harbour (1996)", "9"]


def spellings(title: str) -> list[str]:
    bare = re.sub(r" \(\d{4}\)$", "", title)
    return [title, bare, f'"{bare}"', f"{bare}.", bare.upper(), f"{bare}'s"]


@settings(max_examples=tries(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), title=st.sampled_from(TITLES))
def test_what_is_to_be_found_is_in_no_view_before_it_is_named(
    data: st.DataObject, title: str, items: pl.DataFrame
) -> None:
    part = st.sampled_from([*SENTENCES, *spellings(title)])
    said = st.lists(st.sampled_from(["Hello there", "Any idea?", title, spellings(title)[1]]), min_size=1, max_size=6)
    record = {
        "user_persona": data.draw(st.sampled_from([" ", "\n\n"])).join(data.draw(st.lists(part, max_size=8))),
        "gt_movie_title": title,
        "gt_genre": data.draw(st.sampled_from(["Drama, Comedy", "", title])),
        "dialogue": [f"{('Seeker', 'Recommender')[n % 2]}: {text}" for n, text in enumerate(data.draw(said))],
    }
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "train.json"
        path.write_text(json.dumps([record]), encoding="utf-8")
        (dialogue,) = (linked(one, Catalog(items, MOVIES), spot=True) for one in pearl.read(path).dialogues)
    bare = spellings(title)[1]
    # As whole words; a short one that is also an ordinary word only with its capital.
    first = re.escape(bare[0]) if bare in ("Up", "9", "Nope!", "Amélie") else f"(?i:{re.escape(bare[0])})"
    named = re.compile(rf"(?<!\w){first}(?i:{re.escape(bare[1:])})(?!\w)")
    for role in (USER, RECOMMENDER):
        own = view(dialogue, role, Knowledge(items, [dialogue], MOVIES))
        for message in own.messages:
            if message.role != "system" and named.search(message.text.split("\n")[0]):
                break
            assert not named.search(message.text), (role, message.text)
