"""Every way to generate that users have: the fast path and its reference implementation say the same."""

import pytest
import torch
from local_policies import Exit, Thin

from lookaway.anatomy.tiny import IMAGE, tiny
from lookaway.engine.api import attach, reference

EXITS = [2, None, 1, 3]
WAYS = {
    "sampling": {"do_sample": True, "temperature": 0.9, "top_k": 20},
    "several samples of a row": {"do_sample": True, "num_return_sequences": 2},
    "penalties": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "sampled beams": {"do_sample": True, "num_beams": 2},
}


def both(model, inputs, make, **options):
    """Sequences by removal and by masking, from the same random numbers."""
    found = []
    for how in (attach, reference):
        torch.manual_seed(7)
        with how(model, make()):
            found.append(model.generate(**inputs, max_new_tokens=7, min_new_tokens=7, **options))
    return found


@pytest.mark.parametrize("batch", ["single", "left_padded"])
@pytest.mark.parametrize("way", WAYS)
def test_ways_to_generate(way, batch):
    model = tiny("llava").model
    inputs = tiny("llava").inputs(batch)
    copies = WAYS[way].get("num_beams", WAYS[way].get("num_return_sequences", 1))
    rows = len(inputs["input_ids"])
    exits = [entry for entry in EXITS[:rows] for _ in range(copies)]
    fast, slow = both(model, inputs, lambda: Exit(exits), **WAYS[way])
    assert torch.equal(fast, slow)


@pytest.mark.parametrize("make", [lambda: Exit(2), Thin])
def test_assisted_decoding_crops_what_was_refused(make):
    """Prompt lookup proposes tokens and takes wrong ones back out of the cache."""
    model = tiny("llava").model
    inputs = tiny("llava").inputs()
    words = inputs["input_ids"][:, -6:]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], words, words], 1)  # something to look up
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    options = {"do_sample": False, "suppress_tokens": [IMAGE]}
    fast, slow = both(model, inputs, make, prompt_lookup_num_tokens=3, **options)
    assert torch.equal(fast, slow)
    with attach(model, make()):
        plain = model.generate(**inputs, max_new_tokens=7, min_new_tokens=7, **options)
    assert torch.equal(fast, plain)


def test_an_assistant_of_another_kind():
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    assistant = tiny("llava", num_layers=2, seed=5).model
    options = {"do_sample": False, "suppress_tokens": [IMAGE], "max_new_tokens": 7, "min_new_tokens": 7}
    with attach(model, Exit(2)):
        plain = model.generate(**inputs, **options)
        helped = model.generate(**inputs, **options, assistant_model=assistant)
    assert torch.equal(helped, plain)


def test_streaming():
    class Streamer:
        def __init__(self):
            self.tokens = []

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.ended = True

    model, inputs, streamer = tiny("llava").model, tiny("llava").inputs(), Streamer()
    with attach(model, Exit(1)):
        ids = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False, streamer=streamer)
    assert streamer.ended
    assert streamer.tokens[-5:] == ids[0, -5:].tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_half_precision(dtype, attention):
    """Coarser numbers, the same removal: as near to the full-length reference as the type allows."""
    model = tiny("llava", attn_implementation=attention)
    inputs = {n: v.to(dtype) if v.is_floating_point() else v for n, v in model.inputs("left_padded").items()}
    model.model.to(dtype)
    found = []
    for how in (attach, reference):
        with torch.no_grad(), how(model.model, Exit(EXITS)) as run:
            logits = model.model(**inputs, use_cache=True).logits.float()
            index, valid = run.kept_columns()
        found.append(logits if how is attach else logits.gather(1, index[..., None].expand(-1, -1, logits.shape[-1])))
    assert not found[0][valid].isnan().any()
    torch.testing.assert_close(found[0][valid], found[1][valid], atol=0.15, rtol=0.1)


def test_only_the_last_logits():
    model, inputs = tiny("llava").model, tiny("llava").inputs("left_padded")
    with torch.no_grad(), attach(model, Exit(EXITS)):
        whole = model(**inputs).logits
        last = model(**inputs, logits_to_keep=1).logits
    torch.testing.assert_close(last, whole[:, -1:], atol=1e-5, rtol=1e-5)
