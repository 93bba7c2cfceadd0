"""Engines run one role's model: token ids in, token ids out.

`base` is the contract, `loading` opens the engines that the parameters of a simulation name, `weights` merges adapters
and `preparation` measures in which format, `guard` keeps utterances from repeating themselves. Engines: `llama` (the
only package that imports llama_cpp), `scripted` (a Python function), `person` (somebody at the keyboard), `resampling`
(draws again what is refused).
"""

__all__ = ["base", "guard", "llama", "loading", "person", "preparation", "resampling", "scripted", "weights"]
