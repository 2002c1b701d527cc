"""A twig is its layers run by hand, ranks by the attention that they show, and is refused where it does not fit."""

import pytest
import torch
from torch import nn

import lookaway as la
from lookaway.anatomy.tiny import TINY, tiny
from lookaway.core.errors import AttachError, DataError, ModelMismatch, SettingsError, UnsupportedModel
from lookaway.core.twig import TwigSpec
from lookaway.engine.twig.growth import entering, grow

START, DEPTH = 2, 1
MIXED = ("aya_vision", "gemma3", "paligemma2")
"""Families whose layers are of two kinds in turn."""


def random_twig(model, start=START, depth=DEPTH, seed=1):
    """Weights of a twig that is no copy of the model's layers."""
    draw = torch.Generator().manual_seed(seed)
    weights = grow(la.anatomy(model), TwigSpec(start, depth)).state_dict()
    return {
        name: value + (0.2 * torch.randn(value.shape, generator=draw) if value.is_floating_point() else 0)
        for name, value in weights.items()
    }


def shortened(family, weights, start=START, depth=DEPTH, num_layers=4):
    """The model itself, cut down to its first K layers and, in place of the next T and of its norm, the twig's."""
    model = tiny(family, num_layers, attn_implementation="eager").model
    anatomy = la.anatomy(model)
    decoder = anatomy.language_model
    decoder.layers = nn.ModuleList(list(anatomy.layers)[: start + depth])
    decoder.config.num_hidden_layers = start + depth
    if getattr(decoder.config, "layer_types", None):
        decoder.config.layer_types = decoder.config.layer_types[: start + depth]
    for i in range(depth):
        own = {k.removeprefix(f"layers.{i}."): v for k, v in weights.items() if k.startswith(f"layers.{i}.")}
        decoder.layers[start + i].load_state_dict(own)
    norm = {k.removeprefix("norm."): v for k, v in weights.items() if k.startswith("norm.")}
    anatomy.norm.load_state_dict(norm)
    return model


@pytest.mark.parametrize("family", TINY)
def test_it_is_its_layers_run_by_hand(family):
    by_hand(family, START, DEPTH, 4)


@pytest.mark.parametrize("family", [family for family in TINY if family not in MIXED])
def test_the_published_shape_is_its_layers_run_by_hand(family):
    """K = 2, T = 3; of a decoder that goes on behind it."""
    by_hand(family, 2, 3, 6)


def by_hand(family, start, depth, num_layers):
    model = tiny(family, num_layers).model
    anatomy = la.anatomy(model)
    inputs = anatomy.with_positions(tiny(family, num_layers).inputs("left_padded"))
    if family.startswith("qwen3_vl"):  # it would add image features between the twig's layers, too
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        inputs["input_ids"] = inputs["input_ids"].masked_fill(anatomy.layout(**inputs).visual, 11)
    weights = random_twig(model, start, depth)
    twig = grow(anatomy, TwigSpec(start, depth, weights))
    with torch.no_grad():
        found = anatomy.head_logits(twig.norm(twig(entering(anatomy, start, inputs))))
        wanted = shortened(family, weights, start, depth, num_layers)(**inputs, use_cache=False).logits
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], wanted[real], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch", ["single", "left_padded", "right_padded"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "internvl", "gemma3", "paligemma", "pixtral"])
def test_those_stay_that_its_last_layer_attends_to_most(family, batch):
    model, inputs = tiny(family).model, tiny(family).inputs(batch)
    weights = random_twig(model)
    policy = la.Twig(start=START, depth=DEPTH, keep=5, weights=weights)
    with torch.no_grad():
        maps = shortened(family, weights)(**inputs, use_cache=False, output_attentions=True).attentions[-1]
        with la.attach(model, policy) as run:
            model.generate(**inputs, max_new_tokens=1)
            index, valid = run.kept_columns()
    layout = la.anatomy(model).layout(inputs["input_ids"], inputs["attention_mask"])
    for row, shares in enumerate(maps.mean(1)):
        last = int(layout.text[row].nonzero()[-1])
        shares = shares[last]
        best = shares[layout.visual[row]].sort(descending=True).values[:5]
        kept = index[row][valid[row]]
        found = shares[kept[layout.visual[row][kept]]].sort(descending=True).values
        torch.testing.assert_close(found, best, atol=1e-6, rtol=1e-4)  # outside of a window all are equal


def test_several_layers_and_the_final_exit():
    made = tiny("llava", num_layers=6)
    policy = la.Twig(start=2, depth=3, keep=0.5, final=5)
    with la.attach(made.model, policy) as run:
        made.model.generate(**made.inputs(), max_new_tokens=3)
    assert [layer[0] for layer in run.trace.visual_tokens] == [16, 16, 8, 8, 8, 0]
    assert run.trace.exit_layers == [5]
    assert policy.can_exit(6)
    without = la.KeepSchedule([1.0, 1.0, 0.5, 0.5, 0.5, 0.0])
    with la.attach(made.model, without) as plain:
        made.model.generate(**made.inputs(), max_new_tokens=3)
    twig = run.trace.cost().flops - plain.trace.cost().flops
    shape, tokens = run.trace.shape, run.trace.tokens[1][0]
    assert 2 * shape.layer_flops(tokens) < twig < 3 * shape.layer_flops(tokens)


def test_a_published_mean_is_what_the_schedule_keeps():
    for keep, mean in ((227, 192), (134, 128), (41, 64)):
        entries = la.Twig(start=2, depth=3, keep=keep, final=24).entries(32)
        assert sum(576 if entry == 1.0 else entry for entry in entries) / 32 == pytest.approx(mean, abs=0.5)


def test_a_saved_twig_ranks_as_before_and_belongs_to_its_model(tmp_path):
    made = tiny("llava")
    weights = {name: value.bfloat16() for name, value in random_twig(made.model).items()}
    policy = la.Twig(start=START, depth=DEPTH, keep=0.4, weights=weights).with_base(la.anatomy(made.model).identity)
    loaded = la.load(policy.save_pretrained(tmp_path / "twig"))
    found = []
    for one in (policy, loaded, policy.at(0.4)):
        with torch.no_grad(), la.attach(made.model, one):
            found.append(made.model(**made.inputs("left_padded")).logits)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    with pytest.raises(ModelMismatch):
        la.attach(tiny("llava", seed=1).model, loaded)
    with pytest.raises(SettingsError, match=r"layers.* 2 layers"):
        la.attach(tiny("llava", num_layers=2).model, loaded.with_base(None))
    other = la.chain(loaded, la.ExitAt(3))
    assert la.load(other.save_pretrained(tmp_path / "chain")).twig().tensors.keys() == weights.keys()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"start": 0}, "start is a whole number"),
        ({"depth": 0}, "depth is a whole number"),
        ({"keep": 0.0}, "no visual token at all"),
        ({"final": 2}, "give a later 'final'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(SettingsError, match=words):
        la.Twig(**{"start": 2, "depth": 1, **settings})


@pytest.mark.parametrize(("start", "depth"), [(4, 1), (3, 2), (9, 3)])
def test_beyond_the_depth_is_refused(start, depth):
    with pytest.raises(SettingsError, match="does not fit a decoder of 4 layers"):
        la.attach(tiny("llava").model, la.Twig(start=start, depth=depth))


@pytest.mark.parametrize("family", MIXED)
def test_layers_of_different_kinds_are_refused(family):
    with pytest.raises(UnsupportedModel, match="different kinds"):
        la.attach(tiny(family).model, la.Twig(start=1, depth=2))


def test_what_cannot_be_done_right_is_refused():
    made = tiny("llava")
    weights = random_twig(made.model)
    with pytest.raises(DataError, match="missing"):
        la.attach(made.model, la.Twig(start=START, depth=DEPTH, weights={"norm.weight": weights["norm.weight"]}))
    more = {**weights, "more": torch.zeros(1)}
    with pytest.raises(DataError, match="no weight 'more'"):
        la.attach(made.model, la.Twig(start=START, depth=DEPTH, weights=more))
    with pytest.raises(DataError, match="NaN"):
        la.Twig.from_config({}, {"norm.weight": torch.tensor([float("nan")])})
    twig = la.Twig(start=1, depth=1)
    with pytest.raises(SettingsError, match="Two policies"):
        la.attach(made.model, la.chain(twig, la.Twig(start=2, depth=1)))
    with pytest.raises(SettingsError, match="'then' has a twig"):
        la.SecondLook(la.ExitAt(1), twig)
    with pytest.raises((UnsupportedModel, AttachError), match=r"before the decoder|inside the decoder"):
        la.attach(tiny("qwen3_5").model, twig)
    with la.attach(made.model, twig), torch.no_grad():
        cache = made.model(**made.inputs()).past_key_values
        again = made.inputs()
        again["attention_mask"] = torch.ones(1, 2 * again["input_ids"].shape[1], dtype=torch.long)
        with pytest.raises(UnsupportedModel, match="in one piece"):
            made.model(**again, past_key_values=cache)
