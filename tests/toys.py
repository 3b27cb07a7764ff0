"""Toy students, made on the spot: a few thousand weights, the families' own chat templates."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GraniteMoeHybridConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

# In the families' published form, written down here. Llama-2 puts a system block into the first
# user turn, and both strip the words; <s> opens each user turn in Llama-2, the chat in Mistral.
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set chat = messages[1:] %}{% else %}{% set system = '' %}"
    "{% set chat = messages %}{% endif %}"
    "{% for m in chat %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' }}"
    "{{ ((system if loop.first else '') + m['content']).strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
# Qwen3 opens its last answer with its thoughts, empty ones where it was given none, and leaves them
# out of earlier answers.
QWEN_3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last and '</think>' not in m['content'] %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1].lstrip('\n') }}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
# Gemma calls the assistant model, and ends a turn with another token than a text.
GEMMA_3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Phi-3 ends a chat, though no answer before the last, with the text's end.
PHI_3 = (
    "{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
OLMO_2 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token + ('' if loop.last else '\n') }}"
    "{% else %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# Special tokens: first the one that opens a text, then those that end one. The first of these is
# the tokenizer's; the others stand in generation_config.json only.
TOKENS = {
    "qwen3": ["<|endoftext|>", "<|im_end|>", "<|endoftext|>"],
    "gemma3": ["<bos>", "<eos>", "<end_of_turn>"],
    "phi3": ["<s>", "<|endoftext|>", "<|end|>"],
    "olmo2": ["<|endoftext|>", "<|endoftext|>"],
}
TEMPLATES = {
    "llama": LLAMA_2,
    "qwen3": QWEN_3,
    "gemma3": GEMMA_3,
    "phi3": PHI_3,
    "olmo2": OLMO_2,
}
TEXT = [
    "Write a short text about sewing that shows a metaphor."
    " Answer: The needle is a storm of pale dreams, and it turns."
]


def config(family: str, vocabulary: int, **more):
    """Two layers of the family's kind; all but Llama with grouped-query attention, as they have."""
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
    size |= more
    if family == "llama":
        return LlamaConfig(**size | {"num_key_value_heads": 4})
    if family == "mistral":
        return MistralConfig(**size, sliding_window=None)  # v0.2 has none
    if family == "qwen3":
        return Qwen3Config(**size, head_dim=16)
    if family == "gemma3":  # five layers of six look back over a window only
        kinds = ["sliding_attention", "full_attention"]
        window = {"sliding_window": 384, "query_pre_attn_scalar": 16, "layer_types": kinds}
        return Gemma3TextConfig(**size, **window, head_dim=16)
    if family == "phi3":
        return Phi3Config(**size)
    if family == "olmo2":
        return Olmo2Config(**size)
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


def toy(folder: Path, family: str, *, seed: int = 0, **more) -> str:
    """A model folder with random weights, `more` in its config; returns its path."""
    begin, end, *more_ends = TOKENS.get(family, ["<s>", "</s>"])
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(dict.fromkeys([begin, end, *more_ends, "<unk>"])),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=begin,
        eos_token=end,
        unk_token="<unk>",
        pad_token=end,
    )
    tokenizer.chat_template = TEMPLATES.get(family, MISTRAL)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(family, len(tokenizer), **more))
    # Without it `transformers serve` takes no notice of a temperature.
    model.generation_config.do_sample = True
    if family in TOKENS:
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids([end, *more_ends])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def chats(n: int, *, turns: int = 1) -> list[dict]:
    """Chats of differing lengths, each with its number in it."""

    def turn(i, t):
        task = f"Write text {i} about sewing." + " Please." * (i % 5)
        answer = f"Answer: The needle turns {i} times{', and it waits' * ((i + t) % 7)}."
        return [{"role": "user", "content": task}, {"role": "assistant", "content": answer}]

    return [{"messages": [m for t in range(turns) for m in turn(i, t)]} for i in range(n)]
