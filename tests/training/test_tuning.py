"""Exit-aware tuning: the loss is that of the removal, steps are reproducible, runs resume, results load."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.errors import DataError, LookawayError, SettingsError
from lookaway.core.record import Sample
from lookaway.models.encoding import encode
from lookaway.training import tuning
from lookaway.training.tuning import TuneOptions, answer_loss, exit_for_step, tune

QUICK = TuneOptions(max_steps=4, batch_size=2, save_steps=2, rank=4, lr=5e-3)


def samples(count=6):
    for i in range(count):
        picture = Image.new("RGB", (16, 16), ("red", "blue")[i % 2])
        content = [{"type": "image"}, {"type": "text", "text": "colour?" + "!" * i}]
        yield Sample(f"s{i}", [{"role": "user", "content": content}], (picture,), ("red", "blue")[i % 2])


SAMPLES = list(samples())


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("exit_layer", [None, 1, 3])
def test_the_loss_is_that_of_the_slow_twin(exit_layer):
    model = tiny("llava").model
    batch = encode(tiny_processor(), SAMPLES[:3], "cpu", ["red", "b", "red"])
    loss = answer_loss(model, batch, exit_layer)
    with la.reference(model, la.ExitAt(exit_layer)), torch.no_grad():
        logits = model(**batch.inputs).logits
    found = [
        torch.nn.functional.cross_entropy(logits[row, c - 1], batch.inputs["input_ids"][row, c])
        for row, c in batch.answer_mask.nonzero().tolist()
    ]
    assert loss.item() == pytest.approx(torch.stack(found).mean().item(), abs=1e-5)
    assert not model.model._forward_pre_hooks  # nothing stays attached


def test_gradients_reach_the_layers_after_the_exit_and_the_vision_side_before_it():
    model = tiny("llava").model
    answer_loss(model, encode(tiny_processor(), SAMPLES[:1], "cpu", ["red"]), 2).backward()
    assert model.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0
    assert model.model.language_model.layers[3].mlp.up_proj.weight.grad.abs().sum() > 0


def test_exits_are_drawn_from_seed_and_step():
    options = TuneOptions(exit_share=0.4)
    drawn = [exit_for_step(step, options, range(2, 6)) for step in range(2000)]
    assert drawn == [exit_for_step(step, options, range(2, 6)) for step in range(2000)]
    gone = [layer for layer in drawn if layer is not None]
    assert set(gone) == {2, 3, 4, 5}
    assert 0.36 < len(gone) / 2000 < 0.44
    assert {exit_for_step(s, replace(options, exit_aware=False), range(2, 6)) for s in range(50)} == {None}


def test_tunes_and_the_merged_model_loads(tmp_path):
    model = tiny("llava").model
    before = weights(model)
    seen = []
    real = tuning.answer_loss
    options = replace(QUICK, save="merged", max_steps=8, exit_share=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "answer_loss", lambda m, b, k: seen.append(k) or real(m, b, k))
        run = tune(model, tiny_processor(), SAMPLES, tmp_path, options)
    assert seen == [exit_for_step(step, options, range(1, 4)) for step in range(8)]
    assert None in seen
    assert any(layer is not None for layer in seen)
    assert run.summary["steps"] == 8
    losses = [row["loss"] for row in run.history if "loss" in row]
    assert len(losses) == 8
    loaded = type(model).from_pretrained(run.folder)
    changed = {name for name, value in loaded.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("language_model.layers" in name for name in changed)
    with la.attach(loaded, la.ExitAt(2)) as attached, torch.no_grad():
        loaded(**encode(tiny_processor(), SAMPLES[:1]).inputs)
    assert attached.trace.exit_layers == [2]


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(tmp_path):
    whole = tiny("llava").model
    tune(whole, tiny_processor(), SAMPLES, tmp_path / "whole", QUICK)

    class Killed(Exception):
        pass

    calls = []
    real = tuning.answer_loss

    def dies(model, batch, exit_layer):
        calls.append(exit_layer)
        if len(calls) == 4:
            raise Killed
        return real(model, batch, exit_layer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "answer_loss", dies)
        with pytest.raises(Killed):
            tune(tiny("llava").model, tiny_processor(), SAMPLES, tmp_path / "cut", QUICK)
    resumed = tiny("llava").model
    run = tune(resumed, tiny_processor(), SAMPLES, tmp_path / "cut", QUICK)
    assert "checkpoint-2" in run.summary["resumed_from"]
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[name], atol=1e-6), name
    with pytest.raises(LookawayError, match="finished"):
        tune(tiny("llava").model, tiny_processor(), SAMPLES, tmp_path / "cut", QUICK)


def test_bad_input(tmp_path):
    model, processor = tiny("llava").model, tiny_processor()
    with pytest.raises(DataError, match="There is no sample"):
        tune(model, processor, [], tmp_path)
    with pytest.raises(DataError, match=r"1 samples have no answer \(the first: 's0'"):
        tune(model, processor, [replace(SAMPLES[0], answer=None)], tmp_path)
    with pytest.raises(SettingsError, match="from 1 to 3"):
        tune(model, processor, SAMPLES, tmp_path, replace(QUICK, exit_last=9))
    with pytest.raises(SettingsError):
        TuneOptions(exit_share=1.5)
