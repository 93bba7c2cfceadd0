"""Engines run one role's model: token ids in, token ids out.

`base` is the contract, `loading` opens what the parameters of a simulation name. Only `llama` imports llama_cpp.
"""
