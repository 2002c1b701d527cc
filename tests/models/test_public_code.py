"""LaVIN and METER give what their authors' own code gives, on tiny checkpoints under the published names.

The figures in `golden/LaVIN` and `golden/METER` were computed once by the public code (commits in golden/README.md);
none of that code is here.
"""

import json
from pathlib import Path

import pytest
import torch
from drawn_weights import drawn, drawn_pictures
from safetensors.torch import load_file

from lookaway.models.lavin import keys as lavin_keys
from lookaway.models.lavin.model import LavinForConditionalGeneration
from lookaway.models.meter import keys as meter_keys
from lookaway.models.tiny_models import tiny_lavin, tiny_meter

GOLDEN = Path(__file__).parent / "golden"
IMAGE = 97


def golden(name):
    """(the checkpoint under its published names, rows of token ids, what the public code computed)."""
    cases = json.loads((GOLDEN / name / "cases.json").read_text())
    state = {parameter: drawn(parameter, tuple(shape)) for parameter, shape in cases["parameters"].items()}
    return state, cases["rows"], load_file(GOLDEN / name / "cases.safetensors")


@pytest.fixture(scope="module")
def lavin():
    """A model with the published checkpoint in it, and what belongs to it."""
    state, rows, expected = golden("LaVIN")
    config = tiny_lavin().config
    config.text_config.intermediate_size = len(state["layers.0.feed_forward.w1.weight"])
    model = LavinForConditionalGeneration(config).eval()
    base = lavin_keys.base_from_published(state, head_dim=8)
    missing = model.load_state_dict(base, strict=False).missing_keys
    lavin_keys.load_published_lavin(model, state)
    return model, state, rows, expected, missing


def test_every_name_of_lavin_s_public_code_has_its_place(lavin):
    model, state, _, _, missing = lavin
    adapters = {name for name in state if "adapter" in name}
    assert len(adapters) == 101
    assert set(lavin_keys.adapters_to_published(model.state_dict())) == adapters
    assert set(lavin_keys.adapters_from_published(state)) == set(missing)  # what no file but the adapters' holds


@torch.no_grad()
def test_lavin_s_logits_are_those_of_its_public_code(lavin):
    """Row by row there, without padding; here also as one batch."""
    model, _, rows, expected, _ = lavin
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([[0] * (width - len(row["input_ids"])) + row["input_ids"] for row in rows])
    mask = torch.tensor([[0] * (width - len(row["input_ids"])) + [1] * len(row["input_ids"]) for row in rows])
    pictures = drawn_pictures([number for number, row in enumerate(rows) if row["image"]])
    together = model(input_ids=ids, attention_mask=mask, pixel_values=pictures).logits
    for number, row in enumerate(rows):
        wanted = expected[f"logits {number}"]
        assert float(wanted.abs().max()) > 4
        alone = torch.tensor([row["input_ids"]])
        images = {"pixel_values": drawn_pictures([number])} if row["image"] else {}
        assert bool((alone == IMAGE).any()) == row["image"]
        torch.testing.assert_close(model(input_ids=alone, **images).logits[0], wanted, atol=3e-5, rtol=0)
        torch.testing.assert_close(together[number, -len(row["input_ids"]) :], wanted, atol=3e-5, rtol=0)


@torch.no_grad()
def test_meter_s_answers_are_those_of_its_public_code():
    state, rows, expected = golden("METER")
    model = tiny_meter()
    meter_keys.load_published_meter(model, state)
    width = max(map(len, rows))
    ids = torch.tensor([row + [1] * (width - len(row)) for row in rows])
    given = {"input_ids": ids, "attention_mask": (ids != 1).long(), "pixel_values": drawn_pictures(range(len(rows)))}
    never_read = {f"text_transformer.pooler.dense.{part}" for part in ("weight", "bias")}
    assert set(meter_keys.meter_to_published(model.state_dict())) == set(state) - never_read
    torch.testing.assert_close(model(**given).logits, expected["logits"], atol=3e-6, rtol=0)
    body = model.meter(**given)
    real = given["attention_mask"].bool()
    torch.testing.assert_close(body.text_states[real], expected["text states"][real], atol=1e-5, rtol=0)
    torch.testing.assert_close(body.image_states, expected["image states"], atol=1e-5, rtol=0)
