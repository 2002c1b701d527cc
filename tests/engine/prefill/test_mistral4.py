"""Mistral 4 with pictures: its decoder (latent attention, experts, queries scaled by position) in Mistral 3's class."""

import pytest
import torch
from test_removal_before_decoder import called_with, shorter
from test_renumbering import plain

import lookaway as la
from lookaway.anatomy.tiny import TINY, TinyModel
from lookaway.anatomy.tiny.llava import pixtral_tower
from lookaway.anatomy.tiny.sizes import IMAGE, TEXT

Mistral4Config = pytest.importorskip("transformers", minversion="5.19").Mistral4Config
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def example():
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    rope = Mistral4Config().rope_parameters
    rope = {**rope, "llama_4_scaling_beta": 0.3, "original_max_position_embeddings": 8}  # queries are scaled from 8 on
    text = Mistral4Config(
        **{**TEXT, "num_key_value_heads": 4}, num_hidden_layers=4, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, n_group=1,
        topk_group=1, moe_intermediate_size=24, first_k_dense_replace=1, rope_parameters=rope,
    )  # fmt: skip
    config = Mistral3Config(
        vision_config=pixtral_tower(), text_config=text, image_token_index=IMAGE, spatial_merge_size=1
    )
    torch.manual_seed(0)
    model = Mistral3ForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    assert type(la.anatomy(model).language_model).__name__ == "Mistral4Model"
    return TinyModel("mistral3", model, 0, TINY["mistral3"])


@pytest.mark.parametrize(
    "policy",
    [
        la.ExitAt([2, None, 3, 1]),
        la.FastV(layer=2),
        la.chain(la.CDPruner(0.5), la.ExitAt(2)),
        la.CDPruner(0.4, positions="renumber"),
    ],
)
def test_removal_equals_masking(example, policy):
    model, inputs = example.model, example.inputs("left_padded")
    said = []
    with torch.no_grad():
        with la.attach(model, policy) as run:
            found = model(**inputs).logits
            index, valid = run.kept_columns()
        with la.reference(model, policy):
            masked = model(**inputs).logits.gather(1, index[..., None].expand_as(found))
    for how in (la.attach, la.reference):
        with how(model, policy):
            said.append(model.generate(**inputs, do_sample=False, max_new_tokens=5, suppress_tokens=[IMAGE]))
    torch.testing.assert_close(found[valid], masked[valid], **TOLERANCE)
    assert torch.equal(*said)


@pytest.mark.parametrize("positions", ["original", "renumber"])
def test_removal_before_the_decoder_is_the_shorter_prompt(example, positions):
    model, anatomy = example.model, la.anatomy(example.model)
    inputs = anatomy.with_positions(example.inputs("left_padded"))
    kwargs = called_with(model, inputs)
    with torch.no_grad(), la.attach(model, la.CDPruner(0.4, positions=positions)) as run:
        found = model(**inputs).logits
        index, valid = run.kept_columns()
    for row in range(4):
        cut = shorter(kwargs, row, index[row, valid[row]])
        with torch.no_grad():
            states = anatomy.language_model(**(plain(cut) if positions == "renumber" else cut)).last_hidden_state
        torch.testing.assert_close(found[row, valid[row]], anatomy.head(states)[0], **TOLERANCE)
