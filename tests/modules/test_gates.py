"""Gates: shapes, presets, what they cost, and the text features that they read."""

import pytest
import torch

from lookaway.core.errors import DataError, SettingsError
from lookaway.core.layout import TokenLayout
from lookaway.modules.gates import ExitGates, text_features

LAYERS = (1, 2, 5)
SHAPES = [
    {},
    {"shared": True},
    {"norm": "layer"},
    {"norm": "none", "two_way": True},
    {"shared": True, "norm": "none", "two_way": True},
]


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_one_layer_and_all_layers_agree(settings):
    gates = ExitGates(6, LAYERS, width=8, **settings)
    features = torch.randn(10, 3, 12) * 3 + 1
    gates.fit_norm(features)
    every = gates.all_layers(features)
    assert every.shape == (10, 3)
    for c, layer in enumerate(LAYERS):
        assert torch.allclose(gates(features[:, c], layer), every[:, c], atol=1e-5)
    again = ExitGates.from_config(gates.to_config(), gates.state_dict())
    assert torch.equal(again.all_layers(features), every)


def test_the_published_shape():
    gates = ExitGates.published(64, LAYERS)
    assert sum(w.numel() for w in gates.parameters()) == 3 * (2 * 64 * 2048 + 2048 * 2)
    x = torch.randn(5, 128)
    out = torch.nn.functional.gelu(x @ gates.w1[1]) @ gates.w2[1]  # as published: softmax over two outputs
    assert torch.allclose(gates(x, 2).sigmoid(), out.softmax(-1)[:, 1], atol=1e-5)


def test_shared_gates_still_know_their_layer():
    gates = ExitGates(6, LAYERS, width=8, shared=True)
    with torch.no_grad():
        gates.b1.normal_()
    x = torch.randn(1, 12)
    assert gates(x, 1) != gates(x, 5)
    assert sum(w.numel() for w in gates.parameters()) < sum(w.numel() for w in ExitGates(6, LAYERS, 8).parameters())


def test_huge_constant_features_do_not_drown_the_others():
    gates = ExitGates(2, (1,), width=4)
    features = torch.randn(200, 1, 4) * torch.tensor([1, 1, 30, 1]) + torch.tensor([0, 0, 900, 0])
    gates.fit_norm(features)
    scaled = (features - gates.mean) / gates.scale
    assert torch.allclose(scaled.std(0, correction=0), torch.ones(1, 4), atol=0.1)


@pytest.mark.parametrize(
    "wrong",
    [{"layers": ()}, {"layers": (3, 1)}, {"layers": (1, 1)}, {"width": 0}, {"norm": "batch"}, {"hidden_size": 0}],
    ids=str,
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(SettingsError):
        ExitGates(**{"hidden_size": 4, "layers": (1, 2), **wrong})


def test_an_unknown_layer_is_named():
    with pytest.raises(SettingsError, match=r"No gate reads layer 3.*\[1, 2, 5\]"):
        ExitGates(4, LAYERS)(torch.zeros(1, 8), 3)


def test_damaged_weights_are_named():
    gates = ExitGates(4, LAYERS, width=8)
    weights = gates.state_dict()
    with pytest.raises(DataError, match="'w1' is missing"):
        ExitGates.from_config(gates.to_config(), {k: v for k, v in weights.items() if k != "w1"})
    with pytest.raises(DataError, match="'w2' is"):
        ExitGates.from_config(gates.to_config(), {**weights, "w2": torch.zeros(1)})
    with pytest.raises(DataError, match="'b1' holds NaN"):
        ExitGates.from_config(gates.to_config(), {**weights, "b1": weights["b1"] * float("nan")})


class TestTextFeatures:
    def layout(self, visual, mask=None):
        return TokenLayout.from_masks(torch.tensor(visual).bool(), None if mask is None else torch.tensor(mask))

    def test_by_hand(self):
        hidden = torch.arange(12.0).reshape(1, 6, 2)
        layout = self.layout([[0, 1, 1, 0, 0, 0]])
        found = text_features(hidden, layout)
        assert torch.equal(found, torch.cat([hidden[:, 3:5].mean(1), hidden[:, 5]], dim=1))

    def test_padding_on_either_side_changes_nothing_even_if_it_is_nan(self):
        hidden = torch.randn(1, 6, 3)
        alone = text_features(hidden, self.layout([[0, 1, 1, 0, 0, 0]]))
        nan = torch.full((1, 2, 3), float("nan"))
        left = self.layout([[0, 0, 0, 1, 1, 0, 0, 0]], [[0, 0, 1, 1, 1, 1, 1, 1]])
        right = self.layout([[0, 1, 1, 0, 0, 0, 0, 0]], [[1, 1, 1, 1, 1, 1, 0, 0]])
        assert torch.allclose(text_features(torch.cat([nan, hidden], 1), left), alone)
        assert torch.allclose(text_features(torch.cat([hidden, nan], 1), right), alone)

    def test_a_question_of_one_token_is_its_own_mean(self):
        hidden = torch.randn(1, 4, 3)
        found = text_features(hidden, self.layout([[0, 1, 1, 0]]))
        assert torch.equal(found, torch.cat([hidden[:, 3], hidden[:, 3]], dim=1))

    def test_rows_without_an_image_count_all_their_text(self):
        hidden = torch.randn(1, 4, 3)
        found = text_features(hidden, self.layout([[0, 0, 0, 0]]))
        assert torch.allclose(found, torch.cat([hidden[:, :3].mean(1), hidden[:, 3]], dim=1))

    def test_is_fp32(self):
        layout = self.layout([[0, 1, 1, 0]])
        assert text_features(torch.randn(1, 4, 3, dtype=torch.bfloat16), layout).dtype == torch.float32
