"""Engines run one role's model: token ids in, token ids out.

`base` is the contract, `loading` opens the engines that the parameters of a simulation name, `weights` merges adapters
and `preparation` measures in which format, `guard` keeps utterances from repeating themselves. Engines: `llama` (the
only package that imports llama_cpp), `scripted` (a Python function), `person` (somebody at the keyboard), `resampling`
(draws again what is refused). `server` is the client of OpenAI-compatible servers, which take messages instead of token
ids; `wire` reads what they send, `background` runs requests beside the caller.
"""

__all__ = [
    "background",
    "base",
    "guard",
    "llama",
    "loading",
    "person",
    "preparation",
    "resampling",
    "scripted",
    "server",
    "weights",
    "wire",
]
