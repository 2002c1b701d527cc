"""Eagle-X5's towers against slow restatements, and their sizes as read from shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from golden_cases import checkpoint
from torch import nn

from lookaway.core.errors import PreparationError, UnsupportedModel
from lookaway.models.eagle.eva import EvaAttention, EvaBlock, rotary_tables
from lookaway.models.eagle.keys import KINDS, tower_sizes
from lookaway.models.eagle.towers import CLIP_MEAN, CLIP_STD, ConvNextTower, flattened_patches
from lookaway.models.layouts.reader import Shards, Spec

EAGLE = "Eagle-X5-7B"


@pytest.fixture(scope="module")
def specs():
    return Shards(checkpoint(EAGLE)).specs


def test_sizes_are_read_from_shapes(specs):
    clip, convnext, sam, eva, pix2struct = tower_sizes(list(KINDS), specs)
    assert (clip["hidden_size"], clip["num_hidden_layers"], clip["num_attention_heads"]) == (32, 3, 2)
    assert clip["image_size"] == 336
    assert (convnext["hidden_sizes"], convnext["depths"]) == ([8, 16, 32, 48], [1, 1, 2, 1])
    assert (sam["global_attn_indexes"], sam["window_size"], sam["num_attention_heads"]) == ([1], 14, 2)
    assert (eva["num_layers"], eva["num_heads"], eva["width"], eva["trained_patches"]) == (4, 2, 85, 196)
    assert (pix2struct["d_kv"], pix2struct["num_hidden_layers"], pix2struct["d_ff"]) == (16, 2, 64)


def test_published_head_size_where_no_tensor_tells(specs):
    first = {name: spec for name, spec in specs.items() if "vision_towers.0." in name}
    wide = {name: Spec(tuple(1024 if n == 32 else n for n in s.shape), s.dtype, s.file) for name, s in first.items()}
    assert tower_sizes(["clip-448"], wide)[0]["num_attention_heads"] == 16


def test_towers_that_are_unknown_or_absent_are_named(specs):
    with pytest.raises(UnsupportedModel, match="'dino-448' is not one of clip-448"):
        tower_sizes(["dino-448"], specs)
    with pytest.raises(PreparationError, match="its tower sam-1024 is missing"):
        tower_sizes(["sam-1024"], specs)


def test_convnext_norms_have_timms_eps():
    from transformers import ConvNextConfig

    tower = ConvNextTower(ConvNextConfig(hidden_sizes=[4, 4], depths=[1, 1], num_stages=2))
    assert {m.eps for m in tower.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}


def test_rotary_tables_turn_pairs_by_row_and_column():
    cos, sin = rotary_tables(side=4, head_dim=8, trained_side=16)
    for row in range(4):
        for column in range(4):
            for entry in range(8):
                place = row if entry < 4 else column
                speed = 10000 ** (-((entry % 4) // 2 * 2) / 4)
                angle = place / 4 * 16 * speed
                assert math.isclose(float(cos[row * 4 + column, entry]), math.cos(angle), abs_tol=1e-5)
                assert math.isclose(float(sin[row * 4 + column, entry]), math.sin(angle), abs_tol=1e-5)


@torch.no_grad()
def test_windows_equal_attention_of_each_window_by_itself():
    torch.manual_seed(0)
    block = EvaBlock(hidden_size=8, num_heads=2, width=6, window=2, eps=1e-6)
    states = torch.randn(2, 6, 6, 8)
    expected = states.clone()
    cos, sin = rotary_tables(2, 4)
    normed = block.norm1(states)
    for picture in range(2):
        for row in range(0, 6, 2):
            for column in range(0, 6, 2):
                window = normed[picture, row : row + 2, column : column + 2].reshape(1, 4, 8)
                mixed = slow_attention(block.attn, window, cos, sin).reshape(2, 2, 8)
                expected[picture, row : row + 2, column : column + 2] += mixed
    expected = expected + block.mlp(block.norm2(expected))
    torch.testing.assert_close(block(states), expected, atol=1e-5, rtol=1e-5)


def slow_attention(attention: EvaAttention, states, cos, sin):
    """Head by head and place by place, pairs turned as complex numbers."""
    queries = attention.q_proj(states)[0] + attention.q_bias
    keys = attention.k_proj(states)[0]
    values = attention.v_proj(states)[0] + attention.v_bias
    turns = torch.complex(cos[:, ::2], sin[:, ::2])
    out = torch.zeros_like(values)
    for head in range(attention.num_heads):
        part = slice(head * 4, head * 4 + 4)
        q, k = (torch.view_as_complex(x[:, part].reshape(-1, 2, 2).contiguous()) * turns for x in (queries, keys))
        scores = torch.tensor([[float((a * b.conj()).real.sum()) for b in k] for a in q]) / 2
        out[:, part] = scores.softmax(-1) @ values[:, part]
    return attention.proj(out)[None]


def test_patches_equal_those_of_transformers_processor():
    from transformers import Pix2StructImageProcessorPil

    torch.manual_seed(0)
    picture = torch.rand(1, 3, 128, 128)
    mean, std = (torch.tensor(value)[:, None, None] for value in (CLIP_MEAN, CLIP_STD))
    ours, side = flattened_patches((picture - mean) / std, patch_size=16, max_patches=30)
    raw = (picture[0] * 255).permute(1, 2, 0).numpy().astype(np.float32)
    theirs = Pix2StructImageProcessorPil(is_vqa=False)(
        raw, max_patches=30, patch_size={"height": 16, "width": 16}, input_data_format="channels_last",
        return_tensors="pt", do_convert_rgb=False,
    )["flattened_patches"]  # fmt: skip
    assert side == 5
    assert torch.equal(ours[..., :2], theirs[..., :2])
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)  # theirs is resized in numpy
