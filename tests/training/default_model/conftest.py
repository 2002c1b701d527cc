"""A word-level tokenizer and a two-layer language model: the recipe's parts without any download."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lookaway.data import scenes
from lookaway.models.mini.parts import CHAT_TEMPLATE
from lookaway.training.default_model.packing import Tokens

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>"]


@pytest.fixture(scope="session")
def tokens() -> Tokens:
    words = {w for s in scenes.samples("train", 2000) for w in s.question.replace("?", " ?").split()}
    words |= {s.answer or "" for s in scenes.samples("train", 2000)} | {"user", "assistant", "\n", "?"}
    vocabulary = {w: i for i, w in enumerate([*SPECIAL, *sorted(words)])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| |\w+|[^\w\s]"), "isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), "isolated")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, additional_special_tokens=SPECIAL, chat_template=CHAT_TEMPLATE
    )

    def template(messages: list, add_generation_prompt: bool = False) -> str:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)

    return Tokens(SimpleNamespace(tokenizer=tokenizer, apply_chat_template=template))


@pytest.fixture
def language(tokens) -> LlamaForCausalLM:
    torch.manual_seed(0)
    size = len(tokens.tokenizer)
    config = LlamaConfig(vocab_size=size, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
                         bos_token_id=1, eos_token_id=2, pad_token_id=2, initializer_range=0.2)  # fmt: skip
    return LlamaForCausalLM(config).eval()
