"""Strict chat templates of four kinds, with the marks of assistant-only loss, and a tokenizer of bytes for them.

They have the rules of the models they are named after: what Gemma's, Llama 2's and Mistral's refuse raises here too.
"""

from typing import Any

END = {"gemma": "<end_of_turn>", "llama 2": "</s>", "llama 3": "<|eot_id|>", "mistral": "</s>"}
"""The control token that ends an utterance of the assistant."""
_ALTERNATE = (
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/…') }}{% endif %}"
)
_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
)
_GENERATION = "{% generation %}{{ m['content'] | trim + END }}{% endgeneration %}"

TEMPLATES = {
    "gemma": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% set rest = messages %}" + _ALTERNATE + "{% if m['role'] == 'assistant' %}{{ '<start_of_turn>model\n' }}"
    + _GENERATION + "{{ '\n' }}{% else %}{{ '<start_of_turn>user\n' + m['content'] | trim + '<end_of_turn>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "llama 2": _SYSTEM + _ALTERNATE + "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first and system %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ m['content'] | trim + ' [/INST]' }}{% else %}{{ ' ' }}" + _GENERATION + "{% endif %}{% endfor %}",
    "llama 3": _SYSTEM + "{{ bos_token }}{% if system %}{{ '<|start_header_id|>system<|end_header_id|>\n\n' + system + "
    "'<|eot_id|>' }}{% endif %}" + _ALTERNATE
    + "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}{% if m['role'] == 'assistant' %}"
    + _GENERATION + "{% else %}{{ m['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "mistral": _SYSTEM + "{{ bos_token }}" + _ALTERNATE + "{% if m['role'] == 'user' %}{{ '[INST] ' }}"
    "{% if loop.first and system %}{{ system + '\n\n' }}{% endif %}{{ m['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' }}" + _GENERATION + "{% endif %}{% endfor %}",
}  # fmt: skip
TEMPLATES = {kind: text.replace("END", repr(END[kind])) for kind, text in TEMPLATES.items()}
_CONTROL = ["<start_of_turn>", "<end_of_turn>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CONTROL = ["<s>", "</s>", *_CONTROL, "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|im_end|>", "[TOOL_CALLS]"]
"""The control tokens of the tokenizer, and so of what no text may become."""


def tokenizer(template: str) -> Any:
    """A tokenizer of bytes that recognises `CONTROL` in all text, as TRL's do. Nothing is downloaded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = Tokenizer(models.BPE(vocab={byte: place for place, byte in enumerate(alphabet)}, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bytes_,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=CONTROL[2:],
    )
    fast.chat_template = template
    return fast


def model(n_vocab: int) -> Any:
    """A Llama of one layer with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "max_position_embeddings": 2048}
    return LlamaForCausalLM(LlamaConfig(vocab_size=n_vocab, num_attention_heads=1, num_key_value_heads=1, **sizes))
