"""A policy knows its model by its weights: another of the same shape is refused, unless the user wants it."""

import json
import warnings
from dataclasses import replace

import pytest
import torch

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.base_model import BaseModel
from lookaway.core.errors import ModelMismatch
from lookaway.models.mini.model import shipped_gates

BASE = BaseModel("Llava", 4, 32, 97, id="user/name", revision="abc", weights="1" * 32)


def gates(model):
    return la.VisualExit(la.ExitGates(32, (1, 2), width=4), 0.5, base=la.anatomy(model).identity)


def test_weights_of_the_same_shape_are_another_model():
    mine, other = tiny("llava").model, tiny("llava", seed=1).model
    policy = gates(mine)
    la.attach(mine, policy).detach()
    for door in (la.attach, la.reference):
        with pytest.raises(
            ModelMismatch, match=r"weights = '[0-9a-f]{12}', but the model has weights = '[0-9a-f]{12}'"
        ):
            door(other, policy)
    with la.attach(other, policy, allow_other_model=True), torch.no_grad():
        other(**tiny("llava").inputs("left_padded"))


def test_one_changed_value_is_another_model_and_the_same_in_bfloat16_is_not():
    policy = gates(tiny("llava").model)
    la.attach(tiny("llava").model.to(torch.bfloat16), policy).detach()
    fresh = tiny("llava").model
    with torch.no_grad():
        fresh.lm_head.weight[5, 5] += 0.5
    with pytest.raises(ModelMismatch, match="weights = "):
        la.attach(fresh, policy)


def test_depth_and_width_are_never_allowed():
    deeper = tiny("llava", num_layers=6).model
    with pytest.raises(ModelMismatch, match=r"num_layers = 4, but the model has num_layers = 6"):
        la.attach(deeper, gates(tiny("llava").model), allow_other_model=True)


def test_revisions_count_where_both_are_known_and_no_weights_tell_more():
    plain = replace(BASE, weights="")
    with pytest.raises(ModelMismatch, match="revision = 'abc', but the model has revision = 'def'"):
        plain.check(replace(plain, revision="def"))
    assert plain.check(replace(plain, revision="def"), allow_other_model=True)
    plain.check(replace(plain, revision=""))
    plain.check(replace(plain, id="renamed", revision="def"))
    BASE.check(replace(BASE, revision="def"))  # the same weights, another README


def test_the_gates_of_one_default_model_are_refused_by_the_other():
    bases = {}
    for name in ("lookaway-mini", "lookaway-mini-plain"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # they know their model: nothing to warn of
            bases[name] = la.load(shipped_gates(name)).base
    with pytest.raises(ModelMismatch, match="weights = "):
        bases["lookaway-mini-plain"].check(bases["lookaway-mini"])


def test_a_file_of_0_1_loads_with_one_clear_warning_and_attaches(tmp_path):
    model = tiny("llava").model
    folder = gates(model).save_pretrained(tmp_path / "g")
    document = json.loads((folder / "config.json").read_text())
    del document["base_model"]["weights"]
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.warns(UserWarning, match=r"was saved by lookaway 0\.1, without a digest of the weights") as caught:
        policy = la.load(folder)
    assert len(caught) == 1
    la.attach(tiny("llava", seed=1).model, policy).detach()


def test_merged_adapters_belong_to_the_merged_model():
    model = tiny("llava").model
    policy = la.AttentionSkip((1,), la.SkipAdapters(32, (1,), la.AdapterShape(width=4)), la.anatomy(model).identity)
    merged = la.merge(model, policy)
    la.attach(model, merged).detach()
    with pytest.raises(ModelMismatch):
        la.attach(model, policy)
    la.attach(tiny("llava").model, la.unmerge(model)).detach()


def test_a_guarantee_does_not_move_to_another_model():
    policy = gates(tiny("llava").model).with_threshold(0.7, {"epsilon": 0.1})
    assert policy.with_base(policy.base).guarantee == {"epsilon": 0.1}
    assert policy.with_base(replace(policy.base, weights="0" * 32)).guarantee is None
