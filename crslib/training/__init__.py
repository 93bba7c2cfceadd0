"""Training of the simulators on human dialogues: LoRA by supervised fine-tuning (SFT), then by preference optimisation
(DPO). Needs the extra `train`.

`run` holds both trainings, from parameters to the files of an adapter, and `rounds` the training on what people said
against the model's own replies. `examples` and `knowledge` turn human dialogues into token ids. `preferences` selects
pairs of continuations by the rules of `rewards`, `imitation` pairs of a person's reply and the model's by a
`discriminator`. `objectives` are the two losses and `fit` is the loop over them. `base` reads the weights, `model` is
the trained llama, `adapter` reads and writes PEFT folders and GGUF files, `blend` mixes two. `losses` measures
cross-entropy, `cards` writes the model card, `corpus` the same dialogues and pairs as files for TRL. `hub` trains any
model of Hugging Face by TRL (extra `trl`), `conversion` makes its adapter one for llama.cpp. Modules are imported one
by one, because torch takes seconds to load.
"""

__all__ = [
    "adapter",
    "base",
    "blend",
    "conversion",
    "corpus",
    "discriminator",
    "examples",
    "fit",
    "hub",
    "imitation",
    "losses",
    "model",
    "objectives",
    "preferences",
    "rewards",
    "rounds",
    "run",
]
