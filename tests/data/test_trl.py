"""Files for TRL: strict templates take every row, TRL trains on what the role said and on nothing else."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError

from crslib.config import ExportParameters
from crslib.data import trl
from crslib.dialogue.utterances import RECOMMENDER, USER, mention
from crslib.dialogue.views import Message, Note, RecommenderView, UserKnowledge, UserView
from crslib.errors import CrsError
from tests.support.chat_templates import CONTROL, END, TEMPLATES, model, tokenizer
from tests.support.domains import MOVIES

NASTY = "<|im_end|> (1999)"  # a title
OF_TRL = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
KEEP, FOLD = ExportParameters(), ExportParameters(system="fold")


def user_view(*texts: str, opens: bool = True) -> UserView:
    """A dialogue of these texts in the user's view, with a note on every film of the recommender's."""
    view = UserView(UserKnowledge(MOVIES, f"You loved {NASTY}.", "comedy"))
    for place, text in enumerate(texts):
        if (place % 2 == 0) == opens:
            view.say(text)
        else:
            view.hear(text, [Note(NASTY, True, False)] if NASTY in text else [])
    return view


def recommender_view(*texts: str, opens: bool = True) -> RecommenderView:
    view = RecommenderView(MOVIES)
    for place, text in enumerate(texts):
        (view.say if (place % 2 == 0) == opens else view.hear)(text)
    return view


def frame(*conversations: list[dict[str, str]], split: str | None = "train") -> pl.DataFrame:
    rows = [(f"d{n}", one, f"p{n}", split) for n, one in enumerate(conversations)]
    schema = {"dialogue_id": pl.String, "messages": trl.MESSAGES, "person": pl.String, "split": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_other_party_begins_and_leaving_is_said() -> None:
    system = "You are chatting with a movie recommender.\nAbout you: You loved < |im_end|> (1999).\nLooking for: comedy"
    told = {"role": "system", "content": system}
    first = {"role": "user", "content": "(You speak first.)"}
    opened = user_view("hi", f"Seen {mention(NASTY)}?")
    assert trl.conversation(opened.messages, left=True) == [
        told,
        first,
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "Seen [[< |im_end|> (1999)]]?\n(< |im_end|> (1999): seen, disliked)"},
        {"role": "assistant", "content": "[END]"},
    ]
    answered = user_view("Hello", "bye", opens=False)
    assert trl.conversation(answered.messages, left=True)[1:] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "bye [END]"},
    ]
    assert trl.conversation(user_view().messages) == [told, first]
    folded = trl.conversation(recommender_view("Hi", "[END]").messages, fold=True)
    assert folded == [
        {"role": "user", "content": "You are a movie recommender.\n\n(You speak first.)"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "[ END]"},  # words of the other party, no sign of leaving
    ]


_said = st.lists(st.sampled_from(["a", "ok", *CONTROL, "[END]", mention(NASTY), "é"]), min_size=1).map(" ".join)


@given(st.lists(_said, max_size=6), st.booleans(), st.booleans(), st.booleans())
def test_every_view_is_a_strict_conversation_without_control_tokens(
    texts: list[str], opens: bool, left: bool, fold: bool
) -> None:
    for role, view in ((USER, user_view(*texts, opens=opens)), (RECOMMENDER, recommender_view(*texts, opens=opens))):
        leaves = left and role == USER
        written = trl.conversation(view.messages, left=leaves, fold=fold)
        roles = [message["role"] for message in written]
        assert roles[0] == ("user" if fold else "system")
        assert [*roles[not fold :]] == [("user", "assistant")[n % 2] for n in range(len(roles) - (not fold))]
        contents = [message["content"] for message in written]
        assert all(content.strip() for content in contents)
        assert not [token for token in CONTROL if token in "\n".join(contents)]
        assert ["[END]" in content for content in contents] == [*[False] * (len(contents) - 1), leaves]
        given = [Message(message["role"], message["content"]) for message in written]
        messages, has_left = trl.restored(given, role)
        assert (messages, has_left) == ([Message(one.role, one.text) for one in view.messages], leaves)


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_that_nothing_can_be_trained_on_are_left_out_and_counted(tmp_path: Path) -> None:
    views = [("Hi",), ("Hi", "no", ""), ("Hi", "ok")]
    rows = frame(*(trl.conversation(recommender_view(*texts).messages) for texts in views))
    silent = trl.conversation(recommender_view("Anyone?", opens=False).messages)
    twice = [*rows["messages"][0], {"role": "assistant", "content": "again"}]
    rows = pl.concat([rows, frame(silent, twice), frame(rows["messages"][2].to_list(), split=None)])
    written = trl.write(rows, RECOMMENDER, tmp_path, KEEP, ["From: a test", "Licence: none"])
    assert [row["messages"][2]["content"] for row in read(written.path)] == ["Hi", "Hi"]
    assert written.lines == [
        "1 of 6 dialogues left out: a party speaks twice in a row",
        "1 of 6 dialogues left out: an utterance is empty",
        "1 of 6 dialogues left out: the role says nothing",
        "1 of 6 dialogues left out: the two people are in different splits",
    ]
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    file = "`recommender.jsonl` (train): 2 dialogues; people: 2, none of them in another split"
    for line in (*written.lines, file, "Licence: none"):
        assert f"- {line}" in card
    with pytest.raises(CrsError, match=r"nothing is left for training in user.jsonl \(1 of 1 .* the role says nothing"):
        trl.write(frame(silent), USER, tmp_path, KEEP, [])


def test_a_person_is_in_one_split_and_in_the_same_one_in_every_export() -> None:
    parameters = ExportParameters(validation=0.2, test=0.1, seed=7)
    people = [f"u{n}" for n in range(400)]
    splits = [trl.split_of(person, parameters) for person in people]
    assert [trl.split_of(person, parameters) for person in reversed(people)] == splits[::-1]
    assert splits != [trl.split_of(person, ExportParameters(validation=0.2, test=0.1)) for person in people]
    shares = [splits.count(split) / 400 for split in ("train", "validation", "test")]
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.05)
    assert {trl.split_of(person, KEEP) for person in people} == {"train"}
    with pytest.raises(CrsError, match=r"validation 0.6 and test 0.6 leave nobody to train on"):
        ExportParameters.parse({"validation": 0.6, "test": 0.6})


def test_datasets_loads_the_exports_of_a_folder_by_its_card(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra trl)")
    said = [trl.conversation(user_view("hi", f"try {n}", "ok").messages) for n in range(3)]
    splits = pl.Series("split", ["train", "validation", "train"])
    trl.write(frame(*said).with_columns(splits), USER, tmp_path, KEEP, ["Licence: MINE"])
    trl.write(frame(said[0]), RECOMMENDER, tmp_path, KEEP, ["Licence: YOURS"])
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    configs = yaml.safe_load(card.split("---\n")[1])["configs"]
    assert [config["config_name"] for config in configs] == ["user", "recommender"]
    assert "Licence: MINE" in card
    assert "Licence: YOURS" in card
    loaded = datasets.load_dataset(str(tmp_path), "user", cache_dir=str(tmp_path / "cache"))
    assert {split: rows["dialogue_id"][:] for split, rows in loaded.items()} == {
        "train": ["d0", "d2"],
        "validation": ["d1"],
    }
    assert loaded["validation"][0]["messages"] == said[1]
    trl.write(frame(*said), USER, tmp_path, KEEP, [])  # without a split no rows of an earlier one stay
    assert not (tmp_path / "user-validation.jsonl").exists()


def test_the_card_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Mine")
    with pytest.raises(CrsError, match=r"README.md is of something else and would be replaced; give another folder"):
        trl.write(frame(trl.conversation(user_view("hi").messages)), USER, tmp_path, KEEP, [])
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


# ── TRL's own code ──────────────────────────────────────────────────────────────────────────────────────────────────


def talks(role: str, fold: bool) -> list[list[dict[str, str]]]:
    """Dialogues that either party opens, of texts that occur once, one of which looks like control tokens."""
    words = [f"word{n} {mention(NASTY)} é" if n == 1 else f"word{n}" for n in range(4)]
    make = user_view if role == USER else recommender_view
    return [
        trl.conversation(make(*words, opens=opens).messages, left=role == USER, fold=fold) for opens in (True, False)
    ]


@pytest.mark.parametrize("kind", TEMPLATES)
def test_strict_templates_say_every_text_once(kind: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed (extra test)")
    reader = tokenizer(TEMPLATES[kind])
    for role in (USER, RECOMMENDER):
        for messages in talks(role, fold=kind == "gemma"):
            text = reader.apply_chat_template(messages, tokenize=False)
            assert [text.count(message["content"]) for message in messages] == [1] * len(messages)
    if kind == "gemma":  # what the card says of templates without a system role
        with pytest.raises(TemplateError, match="no system role"):
            reader.apply_chat_template(talks(USER, fold=False)[0], tokenize=False)


@pytest.mark.parametrize("name", ["gemma3", "llama3", "qwen2_5", "qwen3", "phi3"])
def test_the_templates_that_the_card_names_say_every_text_once(name: str) -> None:
    """Templates of these models, as TRL ships them for training."""
    of_trl = pytest.importorskip("trl", reason="TRL is not installed (extra trl)")
    file = Path(of_trl.__file__).parent / f"chat_templates/{name}_training.jinja"
    reader = tokenizer(file.read_text(encoding="utf-8"))
    for role in (USER, RECOMMENDER):
        for messages in talks(role, fold=False):
            text = reader.apply_chat_template(messages, tokenize=False)
            assert [text.count(message["content"]) for message in messages] == [1] * len(messages)


@OF_TRL
@pytest.mark.parametrize("kind", TEMPLATES)
def test_trl_trains_on_the_own_utterances_and_their_ends_alone(kind: str, tmp_path: Path) -> None:
    of_trl = pytest.importorskip("trl", reason="TRL is not installed (extra trl)")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra trl)")
    parameters = FOLD if kind == "gemma" else KEEP
    conversations = [one for role in (USER, RECOMMENDER) for one in talks(role, parameters.system == "fold")]
    path = trl.write(frame(*conversations), USER, tmp_path, parameters, []).path
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    reader = tokenizer(TEMPLATES[kind])
    options = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "bf16": False, "max_steps": 1}
    trainer = of_trl.SFTTrainer(
        model=model(len(reader)),
        args=of_trl.SFTConfig(assistant_only_loss=True, save_strategy="no", **options),
        train_dataset=rows,
        processing_class=reader,
    )
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(len(conversations))])
    for messages, ids, labels in zip(conversations, batch["input_ids"], batch["labels"], strict=True):
        own = [message["content"] + END[kind] for message in messages if message["role"] == "assistant"]
        assert reader.decode(labels[labels != -100]) == "".join(own)
        read_ids = ids[ids != reader.pad_token_id]
        assert reader.decode(read_ids) == reader.apply_chat_template(messages, tokenize=False)
        nasty = reader.convert_tokens_to_ids("<|im_end|>")
        assert nasty not in read_ids.tolist()  # the title stayed text
    if kind == "gemma":
        assert trainer.train().training_loss > 0


@OF_TRL
@pytest.mark.parametrize("kind", TEMPLATES)
def test_trl_reads_pairs(kind: str, tmp_path: Path) -> None:
    of_trl = pytest.importorskip("trl", reason="TRL is not installed (extra trl)")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra trl)")
    parameters = FOLD if kind == "gemma" else KEEP
    views = [user_view(), user_view("Hello", opens=False), user_view("hi", f"Seen {mention(NASTY)}?")]
    sides = [[{"role": "assistant", "content": text}] for text in ("i did", "never")]
    pairs = [
        (f"7:{n:02d}", trl.conversation(view.messages, fold=parameters.system == "fold"), *sides)
        for n, view in enumerate(views)
    ]
    whole = pl.DataFrame(pairs, schema=trl.PAIRS, orient="row")
    whole = whole.with_columns(person=pl.lit(None, pl.String), split=pl.lit("train"))
    path = trl.write(whole, USER, tmp_path, parameters, []).path
    assert path.name == "user-dpo.jsonl"
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    reader = tokenizer(TEMPLATES[kind])
    options = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "bf16": False, "max_steps": 1}
    trainer = of_trl.DPOTrainer(
        model=model(len(reader)),
        ref_model=model(len(reader)),
        args=of_trl.DPOConfig(save_strategy="no", **options),
        train_dataset=rows,
        processing_class=reader,
    )
    for row, (_, prompt, _, _) in zip(trainer.train_dataset, pairs, strict=True):
        asked = reader.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        assert reader.decode(row["prompt_ids"]) == asked
        for side, text in (("chosen", "i did"), ("rejected", "never")):
            assert reader.decode(row[f"{side}_ids"]).strip() == text + END[kind]
    assert set(trainer.data_collator([trainer.train_dataset[0]])) >= {"input_ids", "completion_mask"}
