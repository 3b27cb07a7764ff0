"""Toy students of the paper's architectures, made on the spot: a few thousand weights, the families' own chat templates."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GraniteMoeHybridConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

# In the families' published form, written down here: Llama-2 puts a system block into the first user turn, and both
# strip the words; <s> opens each user turn in Llama-2, only the chat in Mistral.
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set chat = messages[1:] %}{% else %}{% set system = '' %}{% set chat = messages %}{% endif %}"
    "{% for m in chat %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + ((system if loop.first else '') + m['content']).strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
TEXT = [
    "Write a short text about sewing that shows a metaphor. Answer: The needle is a storm of pale dreams, and it turns."
]


def config(family: str, vocabulary: int):
    """Two layers of the family's kind; all but Llama with grouped-query attention, as their models have it."""
    size = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "max_position_embeddings": 512,
    }
    size |= {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    if family == "llama":
        return LlamaConfig(**size | {"num_key_value_heads": 4})
    if family == "mistral":
        return MistralConfig(**size, sliding_window=None)  # v0.2 has none
    if family == "qwen3":
        return Qwen3Config(**size, head_dim=16)
    if family == "gpt2":  # its own names for all of it
        return GPT2Config(vocab_size=vocabulary, n_positions=512, n_embd=32, n_layer=2, n_head=4)
    if family == "mamba":  # no attention at all
        return MambaConfig(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2)
    assert family == "granite", family  # granite-4.0-350m: attention only, no experts
    scales = {
        "attention_multiplier": 0.125,
        "embedding_multiplier": 12,
        "logits_scaling": 0.25,
        "residual_multiplier": 0.5,
    }
    none = {
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "position_embedding_type": "rope",
    }
    return GraniteMoeHybridConfig(
        **size, **scales, **none, shared_intermediate_size=64, layer_types=["attention"] * 2
    )


def toy(folder: Path, family: str, *, seed: int = 0) -> str:
    """A model folder with random weights; returns its path."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"], initial_alphabet=alphabet
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
    )
    tokenizer.chat_template = LLAMA_2 if family == "llama" else MISTRAL
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(family, len(tokenizer)))
    model.generation_config.do_sample = (
        True  # without it `transformers serve` takes no notice of a temperature
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def chats(n: int, *, turns: int = 1) -> list[dict]:
    """Chats of differing lengths, each with its number in it."""

    def turn(i, t):
        asked = {"role": "user", "content": f"Write text {i} about sewing." + " Please." * (i % 5)}
        return [
            asked,
            {
                "role": "assistant",
                "content": f"Answer: The needle turns {i} times{', and it waits' * ((i + t) % 7)}.",
            },
        ]

    return [{"messages": [m for t in range(turns) for m in turn(i, t)]} for i in range(n)]
