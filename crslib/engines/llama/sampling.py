"""How llama.cpp draws a token from logits."""

import ctypes
from typing import Any

import llama_cpp as lc
import numpy as np

from crslib.engines.base import Sampling

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


def chain(sampling: Sampling, seed: int, *, truncated: bool = True) -> Any:
    """A llama.cpp sampler chain, which the caller frees.

    Without `truncated` it has no `min_p`, `top_p` and temperature: a constraint's choices are drawn with their exact
    probabilities, or the best one at temperature 0.
    """
    samplers = lc.llama_sampler_chain_init(lc.llama_sampler_chain_default_params())
    if sampling.temperature == 0:
        lc.llama_sampler_chain_add(samplers, lc.llama_sampler_init_greedy())
        return samplers
    if truncated:
        lc.llama_sampler_chain_add(samplers, lc.llama_sampler_init_min_p(sampling.min_p, 1))
        lc.llama_sampler_chain_add(samplers, lc.llama_sampler_init_top_p(sampling.top_p, 1))
        lc.llama_sampler_chain_add(samplers, lc.llama_sampler_init_temp(sampling.temperature))
    lc.llama_sampler_chain_add(samplers, lc.llama_sampler_init_dist(seed))
    return samplers


def sample(sampler: Any, ids: np.ndarray, logits: np.ndarray) -> int:
    """Draws one of `ids`, which have these `logits`, with a chain."""
    candidates = np.zeros(len(ids), _CANDIDATE)
    candidates["id"], candidates["logit"] = ids, logits
    data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(lc.llama_token_data))
    array = lc.llama_token_data_array(data=data, size=len(ids), selected=-1, sorted=False)
    lc.llama_sampler_apply(sampler, ctypes.byref(array))
    token = array.data[array.selected].id
    lc.llama_sampler_accept(sampler, token)
    return int(token)
