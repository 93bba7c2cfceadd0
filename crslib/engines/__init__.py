"""Engines run one role's model: token ids in, token ids out. Only `llama` imports llama_cpp."""
