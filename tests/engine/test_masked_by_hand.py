"""Live removal, and decoding behind it, against masks built by hand on a model that nothing is attached to."""

import pytest
import torch
from local_policies import Exit
from masked_by_hand import masked_by_hand
from shared_tiny import tiny_once

from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import IMAGE, VIDEO
from lookaway.anatomy.tiny.tiled import INDICATORS
from lookaway.engine.api import attach, reference

FAMILIES = ("llava", "llava_next", "qwen2_vl", "qwen3_vl", "internvl", "gemma3", "paligemma", "smolvlm")
EXITS = [2, None, 1, 3]
STEPS = 5
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def image_ids(model):
    anatomy = anatomy_of(model)
    return [anatomy.image_token_id, *anatomy.other_visual_ids]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", ["single", "left_padded", "right_padded"])
def test_removal(family, batch, attention):
    example = tiny_once(family, attn_implementation=attention)
    inputs = example.inputs(batch)
    exits = EXITS[: len(inputs["input_ids"])]
    expected = masked_by_hand(example.model, anatomy_of(example.model).layers, inputs, exits, image_ids(example.model))
    for how in (attach, reference):
        with torch.no_grad(), how(example.model, Exit(exits)) as run:
            found = example.model(**inputs).logits
            index, valid = run.kept_columns()
        if how is reference:
            found = found.gather(1, index[..., None].expand(-1, -1, found.shape[-1]))
        wanted = expected.gather(1, index[..., None].expand(-1, -1, expected.shape[-1]))
        torch.testing.assert_close(found[valid], wanted[valid], **TOLERANCE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding(family, attention):
    """Every step's logits are those of a forward over prompt and answer so far, masked by hand."""
    example = tiny_once(family, attn_implementation=attention)
    inputs = example.inputs("left_padded")
    length = inputs["input_ids"].shape[1]
    options = {"do_sample": False, "max_new_tokens": STEPS, "min_new_tokens": STEPS,
               "suppress_tokens": [IMAGE, VIDEO, *INDICATORS]}  # fmt: skip
    with attach(example.model, Exit(EXITS)):
        out = example.model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    longer = dict(inputs)
    longer["input_ids"] = out.sequences[:, :-1]
    longer["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, STEPS - 1), value=1)
    for kind, later in (("token_type_ids", int(family == "paligemma")), ("mm_token_type_ids", 0)):
        if kind in inputs:
            longer[kind] = torch.nn.functional.pad(inputs[kind], (0, STEPS - 1), value=later)
    anatomy = anatomy_of(example.model)
    longer = anatomy.with_positions(longer)
    expected = masked_by_hand(example.model, anatomy.layers, longer, EXITS, image_ids(example.model), length)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected[:, -STEPS:], **TOLERANCE)
