"""METER: its layer against the formulas, its three heads, disk, published names, padding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lookaway.core.errors import DataError
from lookaway.models.meter.config import MeterConfig
from lookaway.models.meter.keys import load_published_meter, meter_to_published, resize_positions
from lookaway.models.meter.model import MeterForQuestionAnswering
from lookaway.models.tiny_models import tiny_meter

TASKS = ("vqa", "nlvr2", "retrieval")


def inputs(task="vqa", rows=3):
    draw = torch.Generator().manual_seed(2)
    ids = torch.randint(4, 97, (rows, 7), generator=draw)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, 7 - row :] = 0
    ids[mask == 0] = 1
    shape = (rows, 2, 3, 16, 16) if task == "nlvr2" else (rows, 3, 16, 16)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(shape, generator=draw)}


def by_formula(layer, x, y, x_mask, y_mask):
    """One layer with plain matrix products; masks [T], additive."""

    def norm(part, value):
        return F.layer_norm(value, value.shape[-1:], part.LayerNorm.weight, part.LayerNorm.bias, 1e-12)

    def attend(part, states, context, mask):
        q, k, v = (F.linear(s, p.weight, p.bias).unflatten(-1, (2, 8)) for s, p in (
            (states, part.self.query), (context, part.self.key), (context, part.self.value)))  # fmt: skip
        weights = (torch.einsum("shd,thd->hst", q, k) / 8**0.5 + mask).softmax(-1)
        out = torch.einsum("hst,thd->shd", weights, v).flatten(1)
        return norm(part.output, states + F.linear(out, part.output.dense.weight, part.output.dense.bias))

    a = attend(layer.attention, x, x, x_mask)
    b = attend(layer.crossattention, a, y, y_mask)
    dense = layer.intermediate["dense"]
    middle = F.gelu(F.linear(b, dense.weight, dense.bias))
    return norm(layer.output, b + F.linear(middle, layer.output.dense.weight, layer.output.dense.bias))


@torch.no_grad()
def test_both_streams_read_the_previous_pair():
    model = tiny_meter()
    given, body, row = inputs(), model.meter, 1
    seen = {}
    layers = (body.cross_modal_text_layers[0], body.cross_modal_image_layers[0])
    hooks = [
        part.register_forward_pre_hook(lambda m, args, i=i: seen.update({i: args})) for i, part in enumerate(layers)
    ]
    out = body(**given)
    for hook in hooks:
        hook.remove()
    x, y = seen[0][0][row], seen[1][0][row]
    closed = torch.zeros(7).masked_fill(given["attention_mask"][row] == 0, -1e9)
    for text_layer, image_layer in zip(body.cross_modal_text_layers, body.cross_modal_image_layers, strict=True):
        x, y = (
            by_formula(text_layer, x, y, closed, torch.zeros(len(y))),
            by_formula(image_layer, y, x, torch.zeros(len(y)), closed),
        )
    torch.testing.assert_close(out.text_states[row], x, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.image_states[row], y, atol=1e-5, rtol=1e-4)
    pools = (body.cross_modal_text_pooler.dense, body.cross_modal_image_pooler.dense)
    pooled = torch.cat([torch.tanh(p(s[0])) for p, s in zip(pools, (x, y), strict=True)])
    torch.testing.assert_close(out.pooled[row], pooled, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_a_padded_batch_equals_its_rows(task):
    model, given = tiny_meter(task), inputs(task)
    logits = model(**given).logits
    assert logits.shape == (3, {"vqa": 5, "nlvr2": 2, "retrieval": 1}[task])
    for row in range(3):
        length = int(given["attention_mask"][row].sum())
        alone = model(given["input_ids"][row : row + 1, :length], given["pixel_values"][row : row + 1]).logits
        torch.testing.assert_close(logits[row], alone[0], atol=1e-5, rtol=1e-4)


def assert_same_weights(one, other):
    found, expected = one.state_dict(), other.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_disk_and_published_names(tmp_path, task):
    model, given = tiny_meter(task), inputs(task)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.num_labels == model.config.num_labels == {"vqa": 5, "nlvr2": 2, "retrieval": 5}[task]
    assert_same_weights(loaded, model)
    # Weights that lie elsewhere in memory go through other kernels: the last bit may differ.
    torch.testing.assert_close(loaded(**given).logits, model(**given).logits, atol=1e-6, rtol=1e-6)
    published = meter_to_published(model.state_dict())
    assert {"vit_model.visual.conv1.weight", "text_transformer.encoder.layer.0.attention.self.query.weight",
            "cross_modal_image_layers.2.crossattention.output.LayerNorm.bias"} <= set(published)  # fmt: skip
    more = {"vit_model.positional_embedding": torch.zeros(77, 5), "vit_model.ln_final.weight": torch.zeros(5),
            "text_transformer.pooler.dense.bias": torch.zeros(16), "itm_score.fc.bias": torch.zeros(2)}  # fmt: skip
    for layout in ({"state_dict": published | more}, {
        (k if k.split(".")[0] in ("vqa_classifier", "nlvr2_classifier", "rank_output") else f"meter.{k}").replace(
            "vit_model.visual.", "vit_model."): v for k, v in published.items()
    }):  # fmt: skip
        other = tiny_meter(task, seed=4)
        load_published_meter(other, layout)
        assert_same_weights(other, model)
        torch.testing.assert_close(other(**given).logits, model(**given).logits, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_a_pretrained_body_of_another_size_starts_a_task():
    published = meter_to_published(tiny_meter("vqa").state_dict())
    model = tiny_meter("nlvr2", seed=4)
    head = model.nlvr2_classifier[3].weight.clone()
    load_published_meter(model, {"state_dict": published})
    types = model.meter.token_type_embeddings.weight
    assert torch.equal(types[2], types[1])
    assert torch.equal(model.nlvr2_classifier[3].weight, head)
    positions = published["vit_model.visual.positional_embedding"]
    larger = resize_positions(positions, 10)
    assert larger.shape == (10, 16)
    assert torch.equal(larger[0], positions[0])
    assert resize_positions(positions, 5) is positions


def test_losses():
    given = inputs()
    model = tiny_meter()
    scores = torch.zeros(3, 5)
    scores[0, 2], scores[1, 4] = 0.9, 0.3
    logits = model(**given).logits.double()
    p = torch.sigmoid(logits)
    expected = -(scores * p.log() + (1 - scores) * (1 - p).log()).sum(1).mean()
    torch.testing.assert_close(model(**given, labels=scores).loss.double(), expected, rtol=1e-4, atol=1e-5)
    ranker = tiny_meter("retrieval")
    out = ranker(**given, texts_per_image=3)
    torch.testing.assert_close(out.loss, -out.logits[:, 0].log_softmax(0)[0])
    pairs, labels = inputs("nlvr2"), torch.tensor([0, 1, 1])
    evaluator = tiny_meter("nlvr2")
    out = evaluator(**pairs, labels=labels)
    torch.testing.assert_close(out.loss, -out.logits.log_softmax(1)[range(3), labels].mean())


def test_what_does_not_fit_is_named():
    model, given = tiny_meter(), inputs()
    with pytest.raises(DataError, match="3 and 2 images"):
        model(given["input_ids"], given["pixel_values"][:2])
    with pytest.raises(DataError, match="image_type 2 has no embedding"):
        model.meter(given["input_ids"], given["pixel_values"], image_type=2)
    with pytest.raises(DataError, match="token_types of 3"):
        tiny_meter("nlvr2", token_types=2)
    published = meter_to_published(model.state_dict())
    del published["cross_modal_text_pooler.dense.bias"]
    with pytest.raises(DataError, match=r"1 missing \(first: meter.cross_modal_text_pooler.dense.bias"):
        load_published_meter(model, published)


def test_published_sizes():
    with torch.device("meta"):
        model = MeterForQuestionAnswering(MeterConfig())
    assert model.vqa_classifier[3].out_features == 3129
    assert len(model.meter.cross_modal_text_layers) == len(model.meter.cross_modal_image_layers) == 6
    assert len(resize_positions(torch.zeros(1 + 18 * 18, 8), 1 + 24 * 24)) == 577  # 288 to 384
