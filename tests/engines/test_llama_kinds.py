"""Models of many kinds through llama.cpp: tiny files with random weights, the right architecture and chat template."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest

from crslib.config import SimulationParameters
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.views import Message
from crslib.engines.base import Completion, Request, Sampling, complete
from crslib.engines.llama import Feeder, LlamaEngine, Model, all_logits
from crslib.engines.llama.model import Parking, model_params, remedy
from crslib.engines.loading import open_engine
from crslib.errors import CrsError
from crslib.recommender.trie import Titles
from tests.support import tiny

NEWS = ["Hi, which films?", "Have you seen [[Up (2009)]]? It is long.", "How about [[Heat (1995)]]?"]
PARKED = {
    "llama3": "cells",
    "qwen3": "cells",
    "gemma3": "state",
    "phi3": "cells",
    "mamba": "state",
}


@pytest.fixture(scope="module", params=PARKED)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    opened = Model(tiny.make(tmp_path_factory.mktemp("kinds") / f"{request.param}.gguf", request.param))
    yield opened
    opened.close()


def talk(
    model: Model,
    dialogues: Sequence[int],
    *,
    width: int = 2,
    feeder: Feeder | None = None,
    temperature: float = 1.0,
    turns: int = 2,
) -> dict[int, list[Completion]]:
    """The completions of each dialogue: each utterance is drawn twice, and the second one is said."""
    template = ChatTemplate(*model.chat_template)
    sampling = Sampling(temperature=temperature, max_tokens=5)
    engine = LlamaEngine(model, None, sampling, n_ctx=256, width=width, threads=1, feeder=feeder)
    views = {d: [Message("system", f"You like the {d}s. " * (1 + d % 2))] for d in dialogues}
    said: dict[int, list[Completion]] = {d: [] for d in dialogues}
    for turn in range(turns):
        for view in views.values():
            view.append(Message("user", NEWS[turn]))
        for draw in range(2):
            prompts = {d: tuple(template.encode(view, model)) for d, view in views.items()}
            requests = [Request(str(d), prompts[d], 100 * d + 10 * turn + draw, n_shared=3) for d in dialogues]
            for dialogue, completion in zip(dialogues, complete(engine, requests), strict=True):
                said[dialogue].append(completion)
        for dialogue, view in views.items():
            view.append(Message("assistant", "", said[dialogue][-1].ids))
    engine.close()
    return said


def test_each_kind_is_parked_in_the_best_way_that_works(model: Model) -> None:
    talk(model, [1], turns=1)
    assert model.parking is not None
    assert model.parking.kind == PARKED[model.path.stem]
    engine = LlamaEngine(model, None, n_ctx=256, width=2, threads=1)
    assert engine.identity.get("parking", "cells") == PARKED[model.path.stem]
    engine.close()


def test_text_is_the_same_alone_and_together_with_every_kind(model: Model) -> None:
    together = talk(model, [3, 4])
    assert talk(model, [4]) == {4: together[4]}
    assert talk(model, [5, 3, 6]) == {3: together[3]} | talk(model, [5, 6])
    feeder = Feeder()
    assert talk(model, [4, 3], feeder=feeder) == together
    feeder.close()
    assert len({completion.ids for one in together.values() for completion in one}) > 4
    assert all(one[2].n_cached > one[0].n_cached == 0 for one in together.values())


def test_without_parking_the_whole_prompt_is_fed_again_and_the_text_is_as_good(model: Model) -> None:
    """Greedily, feeding again gives the words that parking gave; and the promise of equal bytes holds as well."""
    parked = talk(model, [3, 4], temperature=0)
    way, model.parking = model.parking, Parking("none", 0)
    try:
        again = talk(model, [3, 4], temperature=0)
        assert {d: [c.ids for c in said] for d, said in again.items()} == {
            d: [c.ids for c in said] for d, said in parked.items()
        }
        assert talk(model, [4], temperature=0) == {4: again[4]}
    finally:
        model.parking = way


def test_titles_can_be_constrained_with_every_kind(model: Model) -> None:
    names = ["Up (2009)", "Heat (1995)", "The Matrix (1999)"]
    titles = Titles(names, model.pieces, model.encode)
    engine = LlamaEngine(model, None, Sampling(max_tokens=2), n_ctx=256, width=2, threads=1)
    opening = tuple(ChatTemplate(*model.chat_template).encode([Message("user", "Hi")], model))
    spelled = [model.encode(f"[[{name}]].") for name in names]

    class Named:
        """A title at once, then the end of the sentence."""

        never = np.zeros(0, np.int32)

        def __init__(self) -> None:
            self.inner = titles.constraint(np.zeros(len(names)))

        def forced(self, ids: Sequence[int]) -> list[int]:
            return model.encode("[[") if not ids else []

        def allowed(self, ids: Sequence[int]) -> object:
            return self.inner.allowed(ids)

    said = complete(engine, [Request(str(k), opening, k, Named()) for k in range(3)])
    texts = [model.decode(one.ids) for one in said]
    assert all(any(text.startswith(f"[[{name}") for name in names) for text in texts)
    scores = engine.score(opening, spelled)
    tokens = engine.score_tokens(opening, spelled)
    np.testing.assert_allclose([one.sum() for one in tokens], scores, atol=0.05)
    np.testing.assert_allclose(engine.score(opening, spelled[::-1])[::-1], scores, atol=0.05)
    engine.close()


def test_text_is_tokenized_as_it_stands(model: Model) -> None:
    """Without the blank that some SentencePiece vocabularies want before every text, as that of Phi 3."""
    for text in ("Up (2009)", "[[Heat", " a", "the", "Amélie\n", "<|user|> <bos>"):
        assert model.decode(model.encode(text)) == text
        assert not set(model.encode(text)) & ({*model.controls} | model.ends)


@pytest.mark.parametrize("kind", ["llama3", "gemma3", "qwen3"])
def test_a_prompt_begins_as_the_vocabulary_wants(kind: str, tmp_path: Path) -> None:
    """Llama 3 and Gemma 3 want one begin token, whether their template writes it or not; Qwen 3 wants none."""
    of = tiny.KINDS[kind]
    written, unwritten = of.template, of.template.replace("{{ bos_token }}", "")
    beginnings = []
    for number, template in enumerate((written, unwritten, "{{ bos_token }}" + written)):
        model = Model(tiny.make(tmp_path / f"{number}.gguf", kind, template=template))
        ids = ChatTemplate(*model.chat_template).encode([Message("user", "Hi")], model)
        beginnings.append(model.decode(ids).count(of.specials[0]))
        assert not of.add_bos or model.decode(ids[:1]) == of.specials[0]
        model.close()
    assert beginnings == ([1, 1, 1] if of.add_bos else [0, 0, 1])


def test_a_missing_template_is_said(tmp_path: Path) -> None:
    path = tiny.make(tmp_path / "bare.gguf", "qwen3", template="")
    parameters = SimulationParameters(n_ctx=256, width=2, threads=1)
    with pytest.warns(UserWarning, match="has no chat template in its file"):  # noqa: SIM117
        with open_engine(parameters, str(path), "") as engine:
            assert engine.identity["chat_template"] == "none in the file; ChatML"


def test_what_cannot_be_computed_is_one_sentence(tmp_path: Path) -> None:
    path = tiny.make(tmp_path / "llama3.gguf", "llama3")
    model = Model(path)
    for n_ctx in (2**31, 2**40):
        with pytest.raises(CrsError, match=rf"n_ctx = {n_ctx} with 8 dialogues .* more than llama.cpp can count"):
            LlamaEngine(model, None, n_ctx=n_ctx)
    model.__class__ = type("Huge", (Model,), {"cell_bytes": property(lambda self: 2**50)})
    with pytest.raises(CrsError, match=r"needs about \d+ GB of memory .* lower width or n_ctx"):
        LlamaEngine(model, None, n_ctx=256)
    model.close()
    with pytest.raises(CrsError, match=r'n_gpu_layers = -1, but .*CMAKE_ARGS="-DGGML_CUDA=on" pip install'):
        Model(path, n_gpu_layers=-1)


def test_weights_that_are_no_numbers_are_found_when_loaded(tmp_path: Path) -> None:
    with pytest.raises(
        CrsError, match=r"cannot load the model .*nan\.gguf \(tensor 'output.weight' has invalid data\)"
    ):
        Model(tiny.make(tmp_path / "nan.gguf", "llama3", nan=True))


def test_weights_that_compute_no_numbers_are_found_when_opened_or_at_the_first_token(tmp_path: Path) -> None:
    model = Model(tiny.make(tmp_path / "huge.gguf", "llama3", huge=True))
    with pytest.raises(CrsError, match=r"huge\.gguf computes no numbers \(NaN\)"):
        LlamaEngine(model, None, n_ctx=256, width=2, threads=1)
    model.parking = Parking("none", 0)  # as if another engine had tried it
    engine = LlamaEngine(model, None, n_ctx=256, width=2, threads=1)
    engine.submit(Request("a", (1, 2, 3), 1))
    with pytest.raises(CrsError, match="computes no numbers"):
        engine.step()
    engine.close()
    engine = LlamaEngine(model, None, n_ctx=256, width=2, threads=1)
    for score in (engine.score, engine.score_tokens):
        with pytest.raises(CrsError, match="computes no numbers"):
            score((1, 2, 3), [(4, 5), (6, 7)])
    with pytest.raises(CrsError, match="computes no numbers"):
        all_logits(model, None, [1, 2, 3], threads=1)
    engine.close()
    model.close()


@pytest.mark.parametrize(("built", "extra"), [(b"AVX512 = 1 | AMX_INT8 = 1 | ", False), (b"AVX512 = 1 | ", True)])
def test_no_product_is_made_on_tiles(built: bytes, extra: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where llama.cpp was compiled for them the first one ended the process (Sapphire Rapids, gcc 12)."""
    monkeypatch.setattr(llama_cpp, "llama_print_system_info", lambda: built)
    assert model_params().use_extra_bufts is extra


def test_a_file_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    whole = gguf.GGUFReader(tiny.make(tmp_path / "llama3.gguf", "llama3"))
    writer = gguf.GGUFWriter(tmp_path / "bare.gguf", "llama")
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(whole.tensors[0].shape[1])
    for field in whole.fields.values():
        if field.name.startswith("llama."):
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in whole.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CrsError, match="has no vocabulary"):
        Model(tmp_path / "bare.gguf")


@pytest.mark.parametrize(
    ("why", "says"),
    [
        ("mmap failed: Cannot allocate memory", "free memory, or take a smaller model"),
        ("unable to allocate CPU buffer: failed to allocate buffer of size 9", "free memory, or take a smaller model"),
        ("tensor 'output.weight' has invalid data", "download or convert it again"),
    ],
)
def test_a_file_is_not_to_blame_for_a_lack_of_memory(why: str, says: str) -> None:
    assert remedy(why) == says
