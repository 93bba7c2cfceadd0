"""Engines run one role's model: token ids in, token ids out.

`base` is the contract, `loading` opens the engines that the parameters of a simulation name, `weights` merges adapters
and `preparation` measures in which format, `trial` asks whether llama.cpp computes here at all, `guard` keeps
utterances from repeating themselves. Engines: `llama` (the only package that imports llama_cpp), `scripted` (a Python
function), `resampling` (draws again what has faults). `server` is the client of OpenAI-compatible servers, which take
messages instead of token ids; `wire` reads what they send, `background` runs requests beside the caller.
"""

__all__ = [
    "background",
    "base",
    "guard",
    "llama",
    "loading",
    "preparation",
    "resampling",
    "scripted",
    "server",
    "trial",
    "weights",
    "wire",
]
