"""LaVIN's published names: there and back, Meta's rotation against transformers', and files that are refused."""

from __future__ import annotations

import argparse
import os

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from lookaway.core.errors import DataError
from lookaway.models.lavin import keys as lavin_keys
from lookaway.models.tiny_models import tiny_lavin

HEAD = 8


@pytest.fixture(scope="module")
def state():
    return tiny_lavin().state_dict()


def test_names_go_there_and_back(state):
    published = lavin_keys.adapters_to_published(state)
    assert {name.rsplit("adapter", 1)[0] for name in published} == {
        *(f"layers.{i}." for i in range(4)), *(f"backbone.visual.transformer.resblocks.{i}." for i in range(8)), "",
    }  # fmt: skip
    assert published["layers.1.adapter_attn.conv_B.weight"].shape == (32, 2, 1)  # a grouped 1 x 1 convolution
    assert published["adapter_proj.conv_A.weight"].shape == (8, 16)
    assert published["adapter_modality_embedding.weight"].shape == (2, 32)
    base = lavin_keys.base_to_published(state, HEAD)
    again = lavin_keys.adapters_from_published(published) | lavin_keys.base_from_published(base, HEAD)
    assert set(again) == set(state)
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert base["backbone.visual.transformer.resblocks.0.attn.in_proj_weight"].shape == (48, 16)


def test_meta_rotates_neighbours_and_transformers_halves(state):
    """q . k after rotation is the same number in both layouts."""
    rows = state["model.language_model.layers.0.self_attn.q_proj.weight"]
    theirs = lavin_keys.base_to_published({"model.language_model.layers.0.self_attn.q_proj.weight": rows}, HEAD)
    meta = theirs["layers.0.attention.wq.weight"]
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    angles = torch.outer(torch.arange(2.0), 10000 ** (-torch.arange(0, HEAD, 2) / HEAD))
    turned = (x @ meta.T).unflatten(-1, (4, HEAD // 2, 2))
    turned = torch.view_as_real(torch.view_as_complex(turned) * torch.polar(torch.ones_like(angles), angles)[:, None])
    in_meta = turned.flatten(2)  # [positions, heads, 8]
    q = (x @ rows.T).unflatten(-1, (4, HEAD)).transpose(0, 1)[None]
    cos, sin = (f(torch.cat([angles, angles], -1))[None] for f in (torch.cos, torch.sin))
    ours = apply_rotary_pos_emb(q, q, cos, sin)[0][0].transpose(0, 1)
    products = [torch.einsum("hd,hd->h", part[0], part[1]) for part in (in_meta, ours)]
    torch.testing.assert_close(*products, atol=1e-5, rtol=1e-5)


def test_a_published_file_loads(tmp_path, state):
    published = {f"module.{k}": v for k, v in lavin_keys.adapters_to_published(state).items()}
    options = argparse.Namespace(lr=0.1, output_dir="./LaVIN-7B/")
    torch.save({"model": published, "args": options, "epoch": 19, "scaler": None}, tmp_path / "checkpoint-19.pth")
    model = tiny_lavin(seed=5)
    kept = model.lm_head.weight.clone()
    lavin_keys.load_published_lavin(model, tmp_path / "checkpoint-19.pth")
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state if "adapter" in name)
    assert torch.equal(loaded["model.projector.up.weight"], state["model.projector.up.weight"])
    assert torch.equal(model.lm_head.weight, kept)


class Evil:
    def __reduce__(self):
        return os.getcwd, ()


def test_what_does_not_fit_is_named(tmp_path, state):
    published = lavin_keys.adapters_to_published(state)
    model = tiny_lavin()
    with pytest.raises(DataError, match="no place for here"):
        lavin_keys.load_published_lavin(model, published | {"layers.0.adapter_mlp.conv_A.bias": torch.zeros(4)})
    short = {k: v for k, v in published.items() if not k.startswith("layers.3")}
    with pytest.raises(
        DataError, match=r"8 missing \(first: model.language_model.layers.3.self_attn.adapter.down.bias"
    ):
        lavin_keys.load_published_lavin(model, short)
    with pytest.raises(DataError, match=r"router.bias is \(3,\) in the checkpoint and \(2,\)"):
        lavin_keys.load_published_lavin(
            model, published | {"layers.0.adapter_attn.expert_weights.bias": torch.zeros(3)}
        )
    with pytest.raises(DataError, match="no checkpoint"):
        lavin_keys.load_published_lavin(model, tmp_path / "none.pth")
    torch.save({"model": published, "hook": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(DataError, match="runs no code from a checkpoint"):
        lavin_keys.load_published_lavin(model, tmp_path / "evil.pth")
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        lavin_keys.load_published_lavin(model, tmp_path / "torn.pth")
    with pytest.raises(DataError, match="holds no tensors under 'model'; it has epoch"):
        lavin_keys.load_published_lavin(model, {"epoch": 3})
