"""A random llama of two layers as a GGUF file, and random examples for it: for tests of training."""

from pathlib import Path

import gguf
import numpy as np
import polars as pl

from crslib.training.base import MODULES

N_VOCAB, HIDDEN, N_HEADS, N_KV_HEADS, FFN, N_LAYERS = 96, 64, 4, 2, 96, 2


def write_gguf(path: Path, architecture: str = "llama", seed: int = 0) -> Path:
    """Float32 weights in llama.cpp's names and order; input and output embedding are tied."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(N_LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_rope_freq_base(1000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    kv = HIDDEN // N_HEADS * N_KV_HEADS
    outs = {"attn_q": HIDDEN, "attn_k": kv, "attn_v": kv, "attn_output": HIDDEN, "ffn_down": HIDDEN}

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, (random.normal(size=shape) * shape[-1] ** -0.5).astype(np.float32))

    add("token_embd.weight", N_VOCAB, HIDDEN)
    writer.add_tensor("output_norm.weight", random.uniform(0.5, 1.5, HIDDEN).astype(np.float32))
    for layer in range(N_LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", random.uniform(0.5, 1.5, HIDDEN).astype(np.float32))
        for name in MODULES:
            add(f"blk.{layer}.{name}.weight", outs.get(name, FFN), FFN if name == "ffn_down" else HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make_examples(n: int, seed: int = 0) -> pl.DataFrame:
    """Random tokens, 5 to 40 an example, a third of them targets; the first never is, the last always."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        tokens = random.integers(0, N_VOCAB, random.integers(5, 41)).tolist()
        target = (random.random(len(tokens)) < 1 / 3).tolist()
        target[0], target[-1] = False, True
        kind = [number % 2 + 1 if own else 0 for number, own in enumerate(target)]
        rows.append((f"d{number:03}", tokens, target, kind))
    schema = {
        "dialogue_id": pl.String,
        "tokens": pl.List(pl.Int32),
        "target": pl.List(pl.Boolean),
        "kind": pl.List(pl.UInt8),
    }
    return pl.DataFrame(rows, schema=schema, orient="row")
