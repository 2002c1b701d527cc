"""Samples packed into rows of a twig's layers give the loss and the gradients of the padded batch, on every family."""

import random
from dataclasses import dataclass, replace

import pytest
import torch
from test_attach import _flash_stand_in
from test_twig import DEPTH, START, random_twig
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

import lookaway as la
from lookaway.anatomy.tiny import TINY, tiny
from lookaway.core.twig import TwigSpec
from lookaway.engine.twig.growth import entering, grow
from lookaway.engine.twig.packing import Packing, Slots, cannot_pack, fill_rows
from lookaway.models.encoding import Encoded
from lookaway.models.tiny_models import tiny_lavin
from lookaway.training.twig_training import twig_loss


@dataclass
class Found:
    loss: torch.Tensor
    gradients: dict
    slots: Slots


def loss_of(model, inputs, packs, start=START, depth=DEPTH):
    """Of answers of three tokens at the end of each row."""
    anatomy = la.anatomy(model)
    twig = grow(anatomy, TwigSpec(start, depth, random_twig(model, start, depth))).requires_grad_(True)
    real = inputs["attention_mask"].bool()
    from_behind = real.flip(1).cumsum(1).flip(1)
    slots = Slots(packs)
    loss = twig_loss(anatomy, twig, Encoded(inputs, real & (from_behind <= 3), ()), slots)
    loss.backward()
    return Found(loss.detach(), {name: weight.grad for name, weight in twig.named_parameters()}, slots)


def same(one, other):
    torch.testing.assert_close(one.loss, other.loss, atol=2e-6, rtol=2e-6)
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(gradient, other.gradients[name], atol=2e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", TINY)
def test_every_family(family, attention):
    """Rows with a picture, a taller one, two and none, of different length."""
    model, inputs = tiny(family, attn_implementation=attention).model, tiny(family).inputs("left_padded")
    packed = loss_of(model, inputs, True)
    same(packed, loss_of(model, inputs, False))
    assert packed.slots.packs
    assert packed.slots.ran < packed.slots.padded


@pytest.mark.parametrize("padding", ["left_padded", "right_padded"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_several_layers_and_padding_on_either_side(family, padding):
    model, inputs = tiny(family, num_layers=5).model, tiny(family).inputs(padding)
    same(loss_of(model, inputs, True, 2, 3), loss_of(model, inputs, False, 2, 3))


def test_each_sample_sees_itself_alone():
    """What stands in the same row changes nothing, to the bit."""
    model, inputs = tiny("llava").model, tiny("llava").inputs("left_padded")
    anatomy = la.anatomy(model)
    twig = grow(anatomy, TwigSpec(START, DEPTH))
    real = inputs["attention_mask"].bool()
    call = entering(anatomy, START, inputs)
    shared = next(row for row in fill_rows(real.sum(1).tolist(), int(real.sum(1).max())) if len(row) > 1)
    found = []
    for factor in (1.0, -7.0):
        hidden = call.hidden.clone()
        hidden[shared[1:]] *= factor
        with torch.no_grad():
            found.append(Slots(True).run(twig, call.with_rows(hidden), real))
    assert torch.equal(found[0][shared[0]], found[1][shared[0]])
    assert not torch.allclose(found[0][shared[1]], found[1][shared[1]])


def test_rows_hold_each_sample_once_and_are_no_longer_than_the_longest():
    draw = random.Random(0)
    for _ in range(300):
        lengths = [draw.randint(1, 40) for _ in range(draw.randint(1, 12))]
        rows = fill_rows(lengths, max(lengths))
        assert sorted(sample for row in rows for sample in row) == list(range(len(lengths)))
        assert all(sum(lengths[sample] for sample in row) <= max(lengths) for row in rows)
        half_empty = [row for row in rows if 2 * sum(lengths[sample] for sample in row) <= max(lengths)]
        assert len(half_empty) <= 1  # two such would share a row


def test_what_is_packed_is_unpacked_where_it_was():
    real = torch.tensor([[0, 1, 1, 1], [1, 0, 0, 1], [0, 0, 1, 0]]).bool()
    packing, values = Packing.of(real), torch.arange(12.0).reshape(3, 4, 1)
    assert packing.rows.shape == (2, 3)
    assert torch.equal(packing.unpack(packing.pack(values), values.shape), values * real[..., None])


def test_batches_without_padding_stay_as_they_are():
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    found = loss_of(model, inputs, True)
    assert found.slots.ran == found.slots.padded == inputs["input_ids"].numel()
    same(found, loss_of(model, inputs, False))


def padded_lavin():
    model = tiny_lavin(num_layers=4)
    inputs = tiny("llava").inputs("left_padded")
    seen = model.config.image_seq_length
    width = seen + 9
    ids = torch.full((2, width), 1)
    ids[0, :] = torch.cat([torch.full((seen,), model.config.image_token_id), torch.arange(20, 29)])
    ids[1, -5:] = torch.arange(30, 35)
    return model, {"input_ids": ids, "attention_mask": (ids != 1).long(), "pixel_values": inputs["pixel_values"][:1]}


def test_layers_that_route_whole_rows_stay_padded_and_it_is_said():
    model, inputs = padded_lavin()
    with pytest.warns(UserWarning, match=r"not packed into rows: its layers are told of each row .*routing.*padded"):
        found = loss_of(model, inputs, True)
    assert found.slots.ran == found.slots.padded
    same(found, loss_of(model, inputs, False))


def test_masks_that_cannot_tell_samples_apart_stay_padded_and_it_is_said():
    AttentionInterface.register("flash_stand_in", _flash_stand_in)
    AttentionMaskInterface.register("flash_stand_in", flash_attention_mask)
    model, inputs = tiny("llava").model, tiny("llava").inputs("left_padded")
    model.model.language_model.config._attn_implementation = "flash_stand_in"
    with pytest.warns(UserWarning, match="'flash_stand_in' masks with 2 dimensions"):
        found = loss_of(model, inputs, True)
    assert found.slots.ran == found.slots.padded


def test_what_nobody_knows_is_not_packed():
    model, inputs = tiny("llava").model, tiny("llava").inputs("left_padded")
    call = entering(la.anatomy(model), START, inputs)
    assert cannot_pack(call) is None
    assert "called with gains" in cannot_pack(call.with_keywords(gains=torch.ones(4)))
    assert "tensors by position" in cannot_pack(replace(call, args=(call.hidden, torch.ones(4))))
    assert "not (cos, sin)" in cannot_pack(call.with_keywords(position_embeddings={}))
