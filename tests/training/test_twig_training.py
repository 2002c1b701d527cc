"""A twig learns answers with the model frozen, resumes, and what comes out ranks."""

import copy
from dataclasses import replace

import pytest
import torch
from test_tuning import SAMPLES

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.errors import DataError, SettingsError
from lookaway.core.twig import TwigSpec
from lookaway.engine.twig.growth import grow
from lookaway.models.encoding import encode
from lookaway.training import twig_training
from lookaway.training.twig_training import (
    TwigOptions,
    for_each_process,
    loss_by_thousand,
    train_twig,
    twig_loss,
)

QUICK = TwigOptions(start=1, depth=2, max_steps=4, batch_size=2, save_steps=2, lr=2e-2)


def test_without_training_the_loss_is_that_of_the_first_layers():
    """Layers 0 to K + T - 1 and the model's norm and head: a model of that depth, on each sample alone."""
    model, short = tiny("llava").model, tiny("llava").model
    anatomy = la.anatomy(model)
    la.anatomy(short).language_model.layers = la.anatomy(short).language_model.layers[:3]
    short.config.text_config.num_hidden_layers = 3
    loss = twig_loss(anatomy, grow(anatomy, TwigSpec(1, 2)), encode(tiny_processor(), SAMPLES[:3], "cpu", ["red"] * 3))
    found = []
    for sample in SAMPLES[:3]:
        alone = encode(tiny_processor(), [sample], "cpu", ["red"])
        labels = alone.inputs["input_ids"].masked_fill(~alone.answer_mask, -100)
        with torch.no_grad():
            found.append(short(**alone.inputs, labels=labels, use_cache=False).loss)
    assert loss.item() == pytest.approx(torch.stack(found).mean().item(), abs=2e-5)


def test_packed_or_padded_the_weights_are_the_same(tmp_path):
    long = replace(SAMPLES[0], id="long", messages=[{"role": "user", "content": [
        {"type": "image"}, {"type": "text", "text": "colour? " * 12}
    ]}])  # fmt: skip
    runs = {
        pack: train_twig(tiny("llava").model, tiny_processor(), [long, *SAMPLES[1:]], tmp_path / str(pack),
                         replace(QUICK, pack=pack, batch_size=6))
        for pack in (True, False)
    }  # fmt: skip
    assert runs[True].summary["packed_slots"] <= 0.7
    assert runs[False].summary["packed_slots"] is None
    for name, value in runs[False].policy.weights.items():
        torch.testing.assert_close(runs[True].policy.weights[name], value, atol=1e-3, rtol=8e-3)  # saved in bfloat16
    for one, other in zip(runs[True].history, runs[False].history, strict=True):
        assert one.get("loss", 0.0) == pytest.approx(other.get("loss", 0.0), abs=1e-4)


def test_training_moves_the_twig_alone_and_helps(tmp_path):
    model = tiny("llava").model.train()
    before, wanted = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    run = train_twig(model, tiny_processor(), SAMPLES, tmp_path, replace(QUICK, max_steps=12))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert model.training
    model.eval()
    anatomy = la.anatomy(model)
    assert run.policy.base == anatomy.identity
    assert run.summary["cost_in_prefills"] == pytest.approx(12 * 2 * (1 + 3 * 2) / 4, abs=0.1)
    batch = encode(tiny_processor(), SAMPLES, "cpu", [sample.answer for sample in SAMPLES])
    with torch.no_grad():
        plain, learnt = (
            twig_loss(anatomy, grow(anatomy, TwigSpec(1, 2, weights)), batch) for weights in ({}, run.policy.weights)
        )
    assert learnt < plain - 0.05
    saved = la.load(run.policy.save_pretrained(tmp_path / "policy"))
    assert saved.training["method"] == "twig"
    with la.attach(model, saved) as attached:
        model.generate(**tiny("llava").inputs(), max_new_tokens=2)
    assert attached.trace.visual_tokens[1] == [6]  # 227 of 576


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(tmp_path, monkeypatch):
    whole = train_twig(tiny("llava").model, tiny_processor(), SAMPLES, tmp_path / "whole", QUICK)
    calls, real = [], twig_training.twig_loss

    def dies(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(twig_training, "twig_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        train_twig(tiny("llava").model, tiny_processor(), SAMPLES, tmp_path / "killed", QUICK)
    monkeypatch.setattr(twig_training, "twig_loss", real)
    again = train_twig(tiny("llava").model, tiny_processor(), SAMPLES, tmp_path / "killed", QUICK)
    assert again.summary["resumed_from"] == "checkpoint-2"
    for name, value in whole.policy.weights.items():
        torch.testing.assert_close(again.policy.weights[name], value)


def test_bad_input_is_refused(tmp_path):
    model = tiny("llava").model
    with pytest.raises(DataError, match="answer"):
        train_twig(model, tiny_processor(), [replace(SAMPLES[0], answer=None)], tmp_path)
    with pytest.raises(SettingsError, match="does not fit this model"):
        train_twig(model, tiny_processor(), SAMPLES, tmp_path, replace(QUICK, start=3))
    with pytest.raises(SettingsError, match="--depth must be at least 1"):
        TwigOptions(depth=0)


def test_several_processes_deal_out_whole_steps_or_are_refused():
    options = TwigOptions(batch_size=4, accumulate=6)
    assert for_each_process(options, 7, 1) is options
    assert for_each_process(options, 48, 3) == replace(options, accumulate=2)
    with pytest.raises(SettingsError, match=r"4 processes deal out the 6 batches .* --accumulate 4 --batch-size 6"):
        for_each_process(options, 48, 4)
    with pytest.raises(SettingsError, match=r"50 samples do not fill whole steps of 4 x 6, .* Give --limit 48"):
        for_each_process(options, 50, 2)
    with pytest.raises(SettingsError, match="Give --batch-size 1"):
        for_each_process(options, 10, 2)


def test_what_is_learnt_is_told_by_the_thousand():
    history = [{"step": step, "loss": 10.0 - step} for step in range(1, 7)] + [{"step": 6, "train_runtime": 1.0}]
    assert loss_by_thousand(history, 400) == [8.0, 5.5, 4.0]  # steps begin at samples 0, 400, 800 | 1200, 1600 | 2000
    assert loss_by_thousand(history, 2000) == [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]


def test_the_published_values_are_a_preset():
    """K, T and learning rate of the paper and its code; 64 samples a step."""
    found = TwigOptions(preset="published").filled()
    assert (found.start, found.depth, found.lr, found.epochs, found.warmup) == (2, 3, 1e-4, 1.0, 0.03)
    assert found.batch_size * found.accumulate == 64
    assert TwigOptions().filled().lr < found.lr


@pytest.mark.parametrize("preset", ["published", "small-data"])
def test_the_command_with_a_preset(call, tmp_path, write_questions, preset):
    """K = 2 and T = 3 from the command line, of a model with just so many layers."""
    made = tiny("llava", num_layers=5)
    made.model.save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    data = write_questions(tmp_path, 6, seed=1, answer="red")
    status, text, error = call(
        "train", "--method", "twig", "--preset", preset, "--model", tmp_path / "model", "--data", data,
        "--split", "all", "--max-steps", 1, "--device", "cpu", "--out", tmp_path / "out",
    )  # fmt: skip
    assert status == 0, error
    assert "A sample costs 2.20 prefills of the decoder; K = 2, T = 3." in error  # (2 + 3 x 3) / 5
    assert "mean loss on answers, thousand samples by thousand: " in text
    policy = la.load(tmp_path / "out")
    assert (policy.start, policy.depth) == (2, 3)
    assert policy.training["options"]["lr"] == {"published": 1e-4, "small-data": 5e-5}[preset]
