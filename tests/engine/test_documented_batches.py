"""What docs/batches.md says and no other test of the engine holds."""

import pytest
import torch
from local_policies import Exit
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.errors import LookawayError, UnsupportedModel
from lookaway.engine.api import attach


def test_hidden_states_are_shorter_from_the_exit_layer_on():
    model = tiny("llava")
    inputs = model.inputs()
    visual = int((inputs["input_ids"] == 5).sum())
    whole = inputs["input_ids"].shape[1]
    with torch.no_grad(), attach(model.model, Exit(2)):
        states = model.model(**inputs, output_hidden_states=True).hidden_states
    lengths = [state.shape[1] for state in states]  # entry k enters layer k
    assert lengths == [whole, whole, lengths[2], whole - visual, whole - visual]


class BlockMask:
    """Stands in for flex attention's, which takes transformers a minute to compile."""


def test_flex_attention_is_refused():
    AttentionInterface.register(
        "blocks_stand_in", lambda module, q, k, v, mask, **more: sdpa_attention_forward(module, q, k, v, None, **more)
    )
    AttentionMaskInterface.register("blocks_stand_in", lambda *args, **kwargs: BlockMask())
    model = tiny("llava")
    model.model.model.language_model.config._attn_implementation = "blocks_stand_in"
    with torch.no_grad(), attach(model.model, Exit(1)), pytest.raises(UnsupportedModel, match=r"BlockMask.*sdpa"):
        model.model(**model.inputs("left_padded"))


def test_a_per_row_list_counts_beams_as_rows():
    model = tiny("llava").model
    inputs = tiny("llava").inputs()
    options = {"do_sample": False, "num_beams": 3, "max_new_tokens": 2}
    with attach(model, Exit([2, None, 1])):
        model.generate(**inputs, **options)
    with attach(model, la.ExitAt([2])), pytest.raises(LookawayError, match=r"1 .*3|3 .*1"):
        model.generate(**inputs, **options)
