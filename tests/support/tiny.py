"""Tiny GGUF files of the kinds of models that people use: their architecture, tokenizer and chat template, random
weights, a vocabulary of some 300 tokens. A file is made in a tenth of a second and has about 1 MB.

The templates are short forms written for these tests, with the special tokens and the rules on roles of each kind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from crslib.training.base import MODULES, unpermuted

N_EMBD, N_FF, N_HEAD, N_KV, HEAD = 64, 128, 4, 2, 16
_MERGES = ["t h", "th e", "i n", "e r", "o u", "Ġ a", "Ġ the", "Ġ m", "l l"]
_WORDS = ["▁the", "▁a", "▁m", "th", "in", "er", "ou", "ll", "he"]

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{% if m.role == 'system' %}Today is {{ strftime_now('%d %b %Y') }}.\n{% endif %}"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if tools is not none and tools %}{{ tools | tojson(indent=4) }}{% endif %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""Emits the begin token itself, and a date."""
QWEN3 = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% set ns = namespace(last=messages|length - 1, asked=false) %}"
    "{% for m in messages[::-1] %}{% if m.role == 'user' %}{% set ns.asked = true %}{% break %}{% endif %}"
    "{% set ns.last = ns.last - 1 %}{% endfor %}"
    "{% for m in messages %}{% if m.content is string %}{% set content = m.content %}{% else %}"
    "{% set content = '' %}{% endif %}"
    "{% if m.role == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
"""A thinking model that can be told not to think."""
GEMMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% if messages[0]['content'] is string %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% else %}{% set first = messages[0]['content'][0]['text'] + '\n\n' %}{% endif %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}"
    "{% if m['content'] is string %}{{ m['content'] | trim }}"
    "{% elif m['content'] is iterable %}{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}{% endfor %}"
    "{% else %}{{ raise_exception('Invalid content type') }}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""No system role of its own; the user must begin."""
PHI3 = (
    "{% for m in messages %}{% if m['role'] in ('system', 'user', 'assistant') %}"
    "{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class _Kind:
    architecture: str
    template: str
    specials: Sequence[str]  # control tokens, the begin and the end token first
    pre: str = ""  # of a byte-level vocabulary; empty: a SentencePiece one
    add_bos: bool = False
    add_space_prefix: bool = False
    n_layers: int = 2
    settings: Mapping[str, int | float] = field(default_factory=dict)  # below `architecture.`
    words: Sequence[str] = ()  # tokens that are text, but never split


_ATTENTION = {
    "attention.head_count": N_HEAD,
    "attention.head_count_kv": N_KV,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.dimension_count": HEAD,
    "feed_forward_length": N_FF,
}
_LENGTHS = {"attention.key_length": HEAD, "attention.value_length": HEAD}
_SSM = {"ssm.conv_kernel": 4, "ssm.inner_size": 2 * N_EMBD, "ssm.state_size": 16, "ssm.time_step_rank": 4}
KINDS: Mapping[str, _Kind] = {
    "llama3": _Kind(
        "llama",
        LLAMA3,
        ("<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        pre="llama-bpe",
        add_bos=True,
        settings=_ATTENTION,
    ),
    "qwen3": _Kind(
        "qwen3",
        QWEN3,
        ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
        pre="qwen2",
        settings=_ATTENTION | _LENGTHS,
        words=("<think>", "</think>"),
    ),
    "gemma3": _Kind(  # five layers with a sliding window, then one without: two caches
        "gemma3",
        GEMMA3,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        add_bos=True,
        n_layers=6,
        settings=_ATTENTION | _LENGTHS | {"attention.sliding_window": 16},
    ),
    "phi3": _Kind(
        "phi3",
        PHI3,
        ("<s>", "<|endoftext|>", "</s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
        add_space_prefix=True,
        settings=_ATTENTION,
    ),
    "mamba": _Kind(  # recurrent: a state, no KV cells
        "mamba",
        CHATML,
        ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
        pre="gpt-2",
        settings={"attention.layer_norm_rms_epsilon": 1e-6, "feed_forward_length": 0, **_SSM},
    ),
}
TEMPLATE = "the kind's own"


def make(
    path: Path, kind: str, *, template: str = TEMPLATE, seed: int = 0, nan: bool = False, huge: bool = False
) -> Path:
    """Writes a GGUF file of one of `KINDS`. `template`: another chat template; "" for none.

    `nan`: one weight of the output head is not a number. `huge`: they are numbers, but what they compute is none.
    """
    of = KINDS[kind]
    writer = gguf.GGUFWriter(path, of.architecture)
    n_vocab = _write_vocabulary(writer, of)
    if chosen := of.template if template == TEMPLATE else template:
        writer.add_chat_template(chosen)
    settings = {"context_length": 8192, "embedding_length": N_EMBD, "block_count": of.n_layers, **of.settings}
    for name, value in settings.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{of.architecture}.{name}", value)
    rng = np.random.default_rng(seed)
    for name, shape in _tensors(of, n_vocab).items():
        scale = 1.0 if name.startswith("token_embd") else shape[-1] ** -0.5
        values = rng.normal(size=shape) * scale
        if len(shape) == 1:
            values = 1 + 0.1 * values
        if name.endswith("ssm_a"):
            values = -np.abs(values) - 0.5
        if nan and name == "output.weight":
            values[3, 3] = np.nan
        if huge and name == "output.weight":
            values = 3e38 * np.sign(values)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def hugging_face(path: Path, kind: str) -> Any:
    """The model of a file that `make` wrote, of kind llama3 or qwen3, as `transformers` has it."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    reader = gguf.GGUFReader(path)
    names = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        **MODULES,
    }
    state = {}
    for tensor in reader.tensors:
        *block, name, _ = tensor.name.split(".")
        values = np.array(tensor.data)
        if kind == "llama3" and name in ("attn_q", "attn_k"):
            values = unpermuted(values, N_HEAD if name == "attn_q" else N_KV)
        state[f"model.layers.{block[1]}.{names[name]}.weight" if block else f"{names[name]}.weight"] = values
    sizes = {
        "vocab_size": len(state["lm_head.weight"]),
        "hidden_size": N_EMBD,
        "intermediate_size": N_FF,
        "num_hidden_layers": KINDS[kind].n_layers,
        "num_attention_heads": N_HEAD,
        "num_key_value_heads": N_KV,
        "head_dim": HEAD,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    model = LlamaForCausalLM(LlamaConfig(**sizes)) if kind == "llama3" else Qwen3ForCausalLM(Qwen3Config(**sizes))
    model.load_state_dict({name: torch.from_numpy(values) for name, values in state.items()})
    return model.eval()


def _tensors(of: _Kind, n_vocab: int) -> dict[str, tuple[int, ...]]:
    """Name → shape (rows, columns) of every tensor."""
    q, kv, inner = N_HEAD * HEAD, N_KV * HEAD, 2 * N_EMBD
    attention = {"attn_norm.weight": (N_EMBD,), "attn_output.weight": (N_EMBD, q), "ffn_norm.weight": (N_EMBD,)}
    split = {"attn_q.weight": (q, N_EMBD), "attn_k.weight": (kv, N_EMBD), "attn_v.weight": (kv, N_EMBD)}
    gated = {"ffn_gate.weight": (N_FF, N_EMBD), "ffn_up.weight": (N_FF, N_EMBD), "ffn_down.weight": (N_EMBD, N_FF)}
    normed = {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}
    after = {"post_attention_norm.weight": (N_EMBD,), "post_ffw_norm.weight": (N_EMBD,)}
    fused = {"attn_qkv.weight": (q + 2 * kv, N_EMBD), "ffn_up.weight": (2 * N_FF, N_EMBD)}
    states = {
        "attn_norm.weight": (N_EMBD,),
        "ssm_in.weight": (2 * inner, N_EMBD),
        "ssm_conv1d.weight": (inner, 4),
        "ssm_conv1d.bias": (inner,),
        "ssm_x.weight": (4 + 2 * 16, inner),
        "ssm_dt.weight": (inner, 4),
        "ssm_dt.bias": (inner,),
        "ssm_a": (inner, 16),
        "ssm_d": (inner,),
        "ssm_out.weight": (N_EMBD, inner),
    }
    layers = {
        "llama": {**attention, **split, **gated},
        "qwen3": {**attention, **split, **gated, **normed},
        "gemma3": {**attention, **split, **gated, **normed, **after},
        "phi3": {**attention, **fused, "ffn_down.weight": (N_EMBD, N_FF)},
        "mamba": states,
    }
    around = {name: (n_vocab, N_EMBD) for name in ("token_embd.weight", "output.weight")}
    blocks = {
        f"blk.{layer}.{name}": shape for layer in range(of.n_layers) for name, shape in layers[of.architecture].items()
    }
    return {**around, "output_norm.weight": (N_EMBD,), **blocks}


def _write_vocabulary(writer: gguf.GGUFWriter, of: _Kind) -> int:
    """Writes the tokenizer; returns the number of tokens."""
    kinds = gguf.TokenType
    rows: list[tuple[str, float, Any]] = []
    if of.pre:
        rows += [(character, 0.0, kinds.NORMAL) for character in _byte_characters()]
        rows += [(merge.replace(" ", ""), 0.0, kinds.NORMAL) for merge in _MERGES]
    else:
        rows += [("<unk>", 0.0, kinds.UNKNOWN)]
        rows += [(f"<0x{byte:02X}>", 0.0, kinds.BYTE) for byte in range(256)]
        rows += [(piece, -float(rank), kinds.NORMAL) for rank, piece in enumerate([*_WORDS, "▁"])]
    begin = len(rows)
    rows += [(text, 0.0, kinds.CONTROL) for text in of.specials]
    rows += [(text, 0.0, kinds.USER_DEFINED) for text in of.words]
    writer.add_tokenizer_model("gpt2" if of.pre else "llama")
    if of.pre:
        writer.add_tokenizer_pre(of.pre)
        writer.add_token_merges(_MERGES)
    else:
        writer.add_token_scores([score for _, score, _ in rows])
        writer.add_add_space_prefix(of.add_space_prefix)
    writer.add_token_list([text for text, _, _ in rows])
    writer.add_token_types([kind for _, _, kind in rows])
    writer.add_bos_token_id(begin)
    writer.add_eos_token_id(begin + 1)
    writer.add_add_bos_token(of.add_bos)
    return len(rows)


def _byte_characters() -> list[str]:
    """The 256 characters that stand for bytes in byte-level vocabularies (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]
