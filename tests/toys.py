"""Toy students of the paper's architectures, made on the spot: a few thousand weights, the families' own chat templates."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

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
TEXT = ["Write a short text about sewing that shows a metaphor. Answer: The needle is a storm of pale dreams, and it turns."]


def toy(folder: Path, family: str, *, seed: int = 0) -> str:
    """A model folder with random weights; returns its path."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"], initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")
    tokenizer.chat_template = {"llama": LLAMA_2, "mistral": MISTRAL}[family]
    torch.manual_seed(seed)
    size = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "max_position_embeddings": 512,
    }
    heads = {"num_attention_heads": 4, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**size, **heads, num_key_value_heads=4))
    else:  # grouped-query attention, as Mistral-7B has it; v0.2 has no sliding window
        model = MistralForCausalLM(MistralConfig(**size, **heads, num_key_value_heads=2, sliding_window=None))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def chats(n: int, *, turns: int = 1) -> list[dict]:
    """Chats of differing lengths, each with its number in it."""

    def turn(i, t):
        asked = {"role": "user", "content": f"Write text {i} about sewing." + " Please." * (i % 5)}
        return [asked, {"role": "assistant", "content": f"Answer: The needle turns {i} times{', and it waits' * ((i + t) % 7)}."}]

    return [{"messages": [m for t in range(turns) for m in turn(i, t)]} for i in range(n)]
