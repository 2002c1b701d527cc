"""One pipeline for the whole prompt gives the ids of sentencepiece on every chunk by itself."""

from __future__ import annotations

import json
import random
import re
import shutil

import pytest
import sentencepiece
from golden_cases import GOLDEN, PUBLIC_PLACEHOLDER, as_public_ids, cases, checkpoint

from lookaway.core.errors import MissingDependency, PreparationError
from lookaway.models.layouts.tokenizing import chunkwise_tokenizer, whole_tokenizer

MODEL = "llava-v1.5-7b"
SPECIAL = {"<s>": 1, "</s>": 2, "<unk>": 0}
BITS = ("<image>", "</s>", " ", "  ", "\n", "USER:", "hello world", "é", "你好", "▁", "a", "Please describe", "\t",
        "😀", " ASSISTANT:", "<unk", "0x00", ".", "\n\n")  # fmt: skip


@pytest.fixture(scope="module", params=[False, True], ids=["legacy-false", "legacy"])
def legacy(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(legacy, tmp_path_factory):
    folder = shutil.copytree(checkpoint(MODEL), tmp_path_factory.mktemp("tokenizer") / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": legacy}))
    return chunkwise_tokenizer(folder)


def by_sentencepiece(text, legacy):
    """The reference: sentencepiece alone, as the slow tokenizer of transformers 4.37 calls it on each chunk."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(checkpoint(MODEL) / "tokenizer.model"))
    ids = [1]
    for number, chunk in enumerate(text.split("<image>")):
        ids += [3] if number else []
        for place, part in enumerate(filter(None, re.split("(</s>|<s>|<unk>)", chunk))):
            if part in SPECIAL:
                ids.append(SPECIAL[part])
            elif legacy or place == 0:
                ids += model.encode(part)
            else:  # no mark in front: behind a piece that sentencepiece cuts off by itself
                lead = model.encode("\n")
                ids += model.encode("\n" + part)[len(lead) :]
    return ids


def test_ids_equal_sentencepiece_on_each_chunk(tokenizer, legacy):
    draw = random.Random(0)
    for _ in range(1500):
        text = "".join(draw.choice(BITS) for _ in range(draw.randint(0, 9)))
        assert tokenizer(text)["input_ids"] == by_sentencepiece(text, legacy), repr(text)


def test_golden_ids_also_after_saving(tokenizer, legacy, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for case in cases(MODEL):
        for read in (tokenizer, again):
            ids = read(case.facts["prompt"])["input_ids"]
            assert as_public_ids(ids, 3, -200) == case.facts["input_ids"]
    behind = again("A</s>USER")["input_ids"]
    assert behind == by_sentencepiece("A</s>USER", legacy)
    assert again.padding_side == "left"


SLOW = json.loads((GOLDEN / "slow-tokenizer-ids.json").read_text(encoding="utf-8"))


def test_ids_equal_the_slow_tokenizer_of_transformers_4(tokenizer, legacy):
    for text, ids in SLOW[f"llava-legacy-{legacy}"]:
        assert [PUBLIC_PLACEHOLDER if token == 3 else token for token in tokenizer(text)["input_ids"]] == ids, repr(
            text
        )


def test_whole_prompts_equal_the_slow_tokenizer_of_transformers_4():
    tokenizer = whole_tokenizer(checkpoint("InternVL2-4B"), "<IMG_CONTEXT>", mark=True, end="<|end|>")
    for text, ids in SLOW["phi3"]:
        assert tokenizer(text.replace("<IMG_CONTEXT>", "<image>"))["input_ids"] == ids, repr(text)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(PreparationError, match="no tokenizer"):
        chunkwise_tokenizer(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"lookaway\[convert\]"):
        chunkwise_tokenizer(checkpoint(MODEL))
