"""Adapters learn with the model frozen, resume, and what comes out attaches and merges."""

import copy
from dataclasses import replace

import pytest
import torch
from test_tuning import SAMPLES

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.errors import DataError, SettingsError
from lookaway.engine.replay.teacher_forcing import answer_loss
from lookaway.models.encoding import encode
from lookaway.modules.adapters import llava_shape
from lookaway.training import adapter_training
from lookaway.training.adapter_training import AdapterOptions, train_adapters

QUICK = AdapterOptions(skip=(1, 3), max_steps=4, batch_size=2, save_steps=2, width=4, lr=2e-2)


@pytest.mark.parametrize("exits", [None, 2])
@pytest.mark.parametrize("shape", [la.AdapterShape(width=4, start="random"), llava_shape(4, "random")])
def test_the_loss_is_that_of_the_slow_twin(shape, exits):
    """Answers and what else comes late do not change what an adapter knows of the prompt: prompt and answer apart."""
    model = tiny("llava").model
    batch = encode(tiny_processor(), SAMPLES[:3], "cpu", ["red", "b", "red"])
    policy = la.AttentionSkip((0, 3), la.SkipAdapters(32, (0, 3), shape).eval())
    policy = policy if exits is None else la.chain(policy, la.ExitAt(exits))
    loss = answer_loss(model, batch, policy)
    found = []
    for row in range(3):
        alone = encode(tiny_processor(), SAMPLES[row : row + 1], "cpu")
        answer = batch.inputs["input_ids"][row][batch.answer_mask[row]]
        with la.attach(model, policy), torch.no_grad():
            out = model(**alone.inputs, use_cache=True)
            logits = [out.logits[0, -1]]
            for token in answer[:-1]:
                out = model(input_ids=token[None, None], past_key_values=out.past_key_values)
                logits.append(out.logits[0, -1])
        found += [torch.nn.functional.cross_entropy(row, t) for row, t in zip(logits, answer, strict=True)]
    assert loss.item() == pytest.approx(torch.stack(found).mean().item(), abs=2e-5)


def test_training_changes_adapters_alone_and_helps(tmp_path):
    model = tiny("llava").model.train()
    before, wanted = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    run = train_adapters(model, tiny_processor(), SAMPLES, tmp_path, replace(QUICK, max_steps=12))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert model.training
    model.eval()
    assert run.summary["steps"] == 12
    assert run.summary["skipped"] == [1, 3]
    assert run.policy.base == la.anatomy(model).identity
    batch = encode(tiny_processor(), SAMPLES, "cpu", [sample.answer for sample in SAMPLES])
    with torch.no_grad():
        plain, learnt = (answer_loss(model, batch, p) for p in (la.AttentionSkip((1, 3)), run.policy))
    assert learnt < plain - 0.05
    saved = la.load(run.policy.save_pretrained(tmp_path / "policy"))
    assert saved.training["method"] == "eas"
    with torch.no_grad():
        assert answer_loss(model, batch, saved).item() == pytest.approx(learnt.item(), abs=1e-6)
        merged = la.merge(model, saved)
        assert answer_loss(model, batch, merged).item() == pytest.approx(learnt.item(), abs=1e-4)
    checkpoint = tmp_path / "checkpoints" / "checkpoint-12" / "model.safetensors"
    assert checkpoint.stat().st_size < 20_000  # adapters alone


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(tmp_path):
    whole = train_adapters(tiny("llava").model, tiny_processor(), SAMPLES, tmp_path / "whole", QUICK)

    class Killed(Exception):
        pass

    calls, real = [], adapter_training.attached_loss

    def dies(*args):
        calls.append(args)
        if len(calls) == 4:
            raise Killed
        return real(*args)

    model = tiny("llava").model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter_training, "attached_loss", dies)
        with pytest.raises(Killed):
            train_adapters(model, tiny_processor(), SAMPLES, tmp_path / "cut", QUICK)
    assert all(p.requires_grad for p in model.parameters())  # given back, although it was killed
    resumed = train_adapters(model, tiny_processor(), SAMPLES, tmp_path / "cut", QUICK)
    assert resumed.summary["resumed_from"] == "checkpoint-2"
    for name, value in whole.policy.tensors().items():
        assert torch.allclose(value, resumed.policy.tensors()[name], atol=1e-6), name


@pytest.mark.slow
def test_checkpointing_and_published_presets_train_too(tmp_path):
    model = tiny("llava").model
    for preset in ("published-llava", "published-lavin"):
        options = replace(QUICK, preset=preset, checkpointing=True, max_steps=2, accumulate=2)
        run = train_adapters(model, tiny_processor(), SAMPLES, tmp_path / preset, options)
        assert run.policy.adapters.shape.router
        assert run.summary["steps"] == 2
        assert not model.training
        assert not model.is_gradient_checkpointing


def test_bad_input(tmp_path):
    model, processor = tiny("llava").model, tiny_processor()
    with pytest.raises(DataError, match="There is no sample"):
        train_adapters(model, processor, [], tmp_path, QUICK)
    with pytest.raises(DataError, match=r"1 samples have no answer \(the first: 's0'"):
        train_adapters(model, processor, [replace(SAMPLES[0], answer=None)], tmp_path, QUICK)
    with pytest.raises(SettingsError, match="Give the layers to skip"):
        train_adapters(model, processor, SAMPLES, tmp_path, replace(QUICK, skip=()))
    with pytest.raises(SettingsError, match=r"this decoder has 4 \(0 to 3\)"):
        train_adapters(model, processor, SAMPLES, tmp_path, replace(QUICK, skip=(9,)))
    with pytest.raises(SettingsError, match="--width must be at least 1"):
        replace(QUICK, width=0)


def test_several_gpus_in_one_process_are_refused(tmp_path, monkeypatch):
    """transformers' Trainer would run copies of the model, in threads, with one attachment."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", property(lambda self: 2))
    model = tiny("llava").model
    with pytest.raises(SettingsError, match=r"2 GPUs are visible.*torchrun --nproc-per-node 2"):
        train_adapters(model, tiny_processor(), SAMPLES, tmp_path, QUICK)
    la.attach(model, la.ExitAt(2)).detach()  # nothing was left attached
