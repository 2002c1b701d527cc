"""One tape of a full run gives what every exit would have answered: equal to runs with the visual tokens removed."""

import pytest
import torch
from local_policies import Exit
from shared_tiny import RECIPES, THOROUGH, thorough_families, tiny

from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import BATCH_KINDS
from lookaway.core.errors import AttachError, DataError
from lookaway.core.features import text_features
from lookaway.engine.api import attach
from lookaway.engine.replay.shared_prefix import groups_of, record_shared, rows_of
from lookaway.engine.replay.tape import record_tape

pytestmark = pytest.mark.parametrize("attention", ["sdpa", "eager"])
EVERYWHERE = [(family, kind) for family in RECIPES for kind in (BATCH_KINDS if family in THOROUGH else ["left_padded"])]
sharing_families = pytest.mark.parametrize("family", ["llava", "llava_next", "llava_onevision", "internvl", "smolvlm"])
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize(("family", "batch"), EVERYWHERE)
def test_a_replayed_suffix_is_bit_for_bit_the_run_that_exits_there(family, attention, batch):
    model = tiny(family, attn_implementation=attention)
    inputs = model.inputs(batch)
    tape = record_tape(model.model, inputs)
    full = model.model(**inputs).logits
    for layer in (1, 2, 3):
        with attach(model.model, Exit(layer)) as attached:
            logits = model.model(**inputs, use_cache=False).logits
        index, valid = attached.kept_columns()
        assert torch.equal(index[valid], tape.index[tape.valid])
        assert torch.equal(tape.replay(layer)[tape.valid], logits[valid])
    text = full.gather(1, tape.index[..., None].expand(-1, -1, full.shape[-1]))
    torch.testing.assert_close(tape.replay(4)[tape.valid], text[tape.valid], **TOLERANCE)


@thorough_families
@pytest.mark.parametrize("batch", BATCH_KINDS)
def test_the_growing_batch_equals_single_replays(family, attention, batch):
    model = tiny(family, attn_implementation=attention)
    inputs = model.inputs(batch)
    tape = record_tape(model.model, inputs)
    last = inputs["attention_mask"].shape[1] - 1 - inputs["attention_mask"].flip(1).argmax(1)
    positions = torch.stack([last - 1, last], dim=1)
    grown = tape.exit_logits([1, 3, 4], positions)
    slots = tape.slots(positions)
    for layer, logits in zip([1, 3, 4], grown, strict=True):
        single = tape.replay(layer)
        expected = single.gather(1, slots[..., None].expand(-1, -1, single.shape[-1]))
        torch.testing.assert_close(logits, expected, **TOLERANCE)
    torch.testing.assert_close(tape.full_logits(positions), grown[-1], **TOLERANCE)


@thorough_families
def test_features_are_those_that_a_gate_sees_in_a_live_run(family, attention):
    model = tiny(family, attn_implementation=attention)
    inputs = model.inputs("left_padded")
    seen = {}

    class Look(Exit):
        def layers(self, num_layers, first_prunable):
            return (1, 2, 3)

        def decide(self, view):
            seen[view.layer] = text_features(view.hidden, view.layout)
            return super().decide(view)

    with attach(model.model, Look(None)):
        model.model(**inputs)
    tape = record_tape(model.model, inputs)
    torch.testing.assert_close(tape.features([1, 2, 3]), torch.stack([seen[k] for k in (1, 2, 3)], 1), **TOLERANCE)


@sharing_families
@pytest.mark.parametrize("before", [0, 3])
def test_questions_that_share_their_image_equal_each_alone(family, attention, before):
    model = tiny(family, attn_implementation=attention)
    single = model.inputs("single")
    ids, visual = single["input_ids"][0], single["input_ids"][0] == 5
    image = ids[visual]
    start = ids[:before]
    questions = [[30, 31, 32, 33, 34], [40, 41], [50]]
    rows = [torch.cat([start, image, torch.tensor(q)]) for q in questions]
    width = max(map(len, rows))
    images = {name: value for name, value in single.items() if name not in ("input_ids", "attention_mask")}
    inputs = {
        "input_ids": torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows]),
        **{name: value.repeat_interleave(3, 0) for name, value in images.items()},
    }
    inputs["attention_mask"] = (inputs["input_ids"] != 0).long()
    anatomy = anatomy_of(model.model)
    layout = anatomy.layout(inputs["input_ids"], inputs["attention_mask"])
    assert groups_of(anatomy, layout, inputs, [1, 1, 1]) == ([[0, 1, 2]], [])
    shared = record_shared(anatomy, layout, inputs, [1, 1, 1])
    assert shared.index.shape == (3, 5)
    for row in range(3):
        alone = {"input_ids": rows[row][None], "attention_mask": torch.ones(1, len(rows[row]), dtype=torch.int64)}
        alone |= {name: value[row : row + 1] for name, value in inputs.items() if name not in alone}
        tape = record_tape(anatomy, alone)
        count = len(questions[row])
        expected, found = (
            tape.exit_states([1, 2, 3, 4])[:, 0, -count:],
            shared.exit_states([1, 2, 3, 4])[:, row, :count],
        )
        torch.testing.assert_close(shared.logits(found), tape.logits(expected), **TOLERANCE)
        torch.testing.assert_close(shared.features([1, 3])[row], tape.features([1, 3])[0], **TOLERANCE)


@sharing_families
def test_other_images_other_text_and_no_image_are_not_shared(family, attention):
    model = tiny(family, attn_implementation=attention)
    anatomy, inputs = anatomy_of(model.model), model.inputs("left_padded")
    layout = anatomy.layout(inputs["input_ids"], inputs["attention_mask"])
    assert groups_of(anatomy, layout, inputs, [1, 1, 0, 2]) == ([[0], [1]], [2, 3])
    last = rows_of(anatomy, inputs, [3], [1, 1, 0, 2])
    first = {"internvl": 4, "smolvlm": 3}.get(family, 2)  # of 1 and 3 tiles in front; of 3 rows; of 2 pictures
    assert torch.equal(last["pixel_values"], inputs["pixel_values"][first:])
    assert "pixel_values" not in rows_of(anatomy, inputs, [2], [1, 1, 0, 2])


@thorough_families
def test_a_tape_wants_the_unpruned_model_and_leaves_no_hook(family, attention):
    model = tiny(family, attn_implementation=attention)
    with attach(model.model, Exit(1)), pytest.raises(AttachError, match="attached to this model already"):
        record_tape(model.model, model.inputs())
    with pytest.raises(KeyError):
        record_tape(model.model, {"pixel_values": 1})
    with pytest.raises(ValueError, match="ascend"):
        record_tape(model.model, model.inputs()).exit_states([0])
    assert not any(module._forward_pre_hooks for module in model.model.modules())


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3", "paligemma"])
def test_where_more_than_the_prefix_counts_nothing_is_shared(family, attention):
    model = tiny(family, attn_implementation=attention)
    anatomy, inputs = anatomy_of(model.model), model.inputs("left_padded")
    layout = anatomy.layout(inputs["input_ids"], inputs["attention_mask"])
    assert groups_of(anatomy, layout, inputs, [1, 1, 0, 2]) == ([], [0, 1, 2, 3])
    with pytest.raises(DataError, match="cannot be told apart by rows"):
        rows_of(anatomy, {**inputs, "pixel_values": torch.zeros(7, 3)}, [0], [1, 1, 0, 2])
