"""Positions of every family are the model's own in whatever replays a prefill: searches, exit tables, resumed runs.

Qwen-VL and GLM-4V count in three dimensions and take plain positions without an error, so only their own logits tell.
"""

import numpy as np
import pytest
import torch
from judge import evenly
from prepared import FAMILIES, LAYERS, prepared, question

from lookaway.engine.api import attach
from lookaway.evaluation.decoder_alone import DecoderAlone
from lookaway.models.encoding import encode
from lookaway.policies.fixed import ExitAt
from lookaway.search.schedules.budget import Schedule
from lookaway.search.schedules.vtw import find_withdrawal
from lookaway.search.trials.schedule_evaluator import ModelScheduleEvaluator
from lookaway.training.exit_labels import LabelOptions, make_exit_table

THREE_DIMENSIONAL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v")
SAMPLES = [question(number) for number in range(4)]


@pytest.mark.parametrize("family", THREE_DIMENSIONAL)
def test_a_schedule_is_judged_at_the_model_s_own_positions(family):
    p = prepared(family)
    answers = ["ab", "a", "c d", "yes"]
    evaluator = ModelScheduleEvaluator(
        p.model, p.processor, SAMPLES, answers, ranking="uniform", first_layer=1, batch_size=3
    )
    units = evaluator.workload.units
    for kept in (units, units // 2, 0):
        rates = (1.0,) * (LAYERS - 1) + (kept / units,)
        found, _ = evaluator.run(evaluator.policy(Schedule((units,) * (LAYERS - 1) + (kept,), units)))
        expected = [
            p.judge.loss(
                sample, p.judge.tokens(said), lambda inputs, rates=rates: evenly(rates, p.judge.visual(inputs))
            )
            for sample, said in zip(SAMPLES, answers, strict=True)
        ]
        np.testing.assert_allclose(found.loss, expected, atol=2e-5)


@pytest.mark.parametrize("family", THREE_DIMENSIONAL)
def test_vtw_measures_the_model_s_own_divergence(family):
    p = prepared(family)
    found = find_withdrawal(p.model, p.processor, SAMPLES, threshold=100.0, batch_size=3)
    for layer, divergence in found.divergence.items():
        gaps = []
        for sample in SAMPLES:
            inputs = p.judge.prompt(sample)
            full = p.judge.logits(inputs)[-1].log_softmax(-1)
            gone = p.judge.logits(inputs, p.judge.at_exit(inputs, layer))[-1].log_softmax(-1)
            gaps.append(float((full.exp() * (full - gone)).sum()))
        assert divergence == pytest.approx(np.mean(gaps), abs=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exit_table_holds_the_model_s_own_losses(family):
    p = prepared(family)
    table = make_exit_table(p.model, p.processor, SAMPLES, LabelOptions(target="answer", batch_size=3))
    rows = {name: row for row, name in enumerate(table.ids)}
    for sample in SAMPLES:
        tokens = p.judge.tokens(sample.answer)
        assert float(table.full_loss[rows[sample.id]]) == pytest.approx(p.judge.loss(sample, tokens), abs=2e-5)
        for column, layer in enumerate(table.layers):
            expected = p.judge.loss(sample, tokens, lambda inputs, layer=layer: p.judge.at_exit(inputs, layer))
            assert float(table.loss[rows[sample.id], column]) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_encoded_by_the_library_is_what_the_judge_reads(family):
    p = prepared(family)
    encoded = encode(p.processor, SAMPLES).inputs
    with torch.no_grad():
        batch = p.model.generate(**encoded, do_sample=False, max_new_tokens=2, output_logits=True,
                                 return_dict_in_generate=True).logits[0]  # fmt: skip
    for row, sample in enumerate(SAMPLES):
        torch.testing.assert_close(batch[row], p.judge.logits(p.judge.prompt(sample))[-1], rtol=0, atol=5e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_benchmark_s_decoder_computes_what_the_model_does(family):
    p, seen = prepared(family), []
    decoder = DecoderAlone(p.model, encode(p.processor, SAMPLES[:1]).inputs)
    handle = p.model.register_forward_hook(lambda model, args, out: seen.append(out.logits[0, -1]))
    try:
        with torch.no_grad():
            decoder()
            with attach(p.model, ExitAt(2)):
                decoder()
    finally:
        handle.remove()
    inputs = p.judge.prompt(SAMPLES[0])
    torch.testing.assert_close(seen[0], p.judge.logits(inputs)[-1], rtol=0, atol=5e-5)
    torch.testing.assert_close(seen[1], p.judge.logits(inputs, p.judge.at_exit(inputs, 2))[-1], rtol=0, atol=5e-5)
