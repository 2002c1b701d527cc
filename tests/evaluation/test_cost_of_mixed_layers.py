"""Decoders that mix dense layers and experts: every count of FLOPs is by layer, against sums by hand."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lookaway as la
from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import tiny
from lookaway.evaluation.beside import baselines_for
from lookaway.evaluation.curves import ExitOutcomes
from lookaway.evaluation.kept_tokens import looked_again
from lookaway.evaluation.token_baselines import equal_share, prompt_tokens
from lookaway.search.fit.outcomes import Outcomes
from lookaway.search.schedules.budget import Budget, Workload, solve
from lookaway.search.schedules.schedule_shapes import Span, logistic
from lookaway.search.trials.schedule_evaluator import ModelScheduleEvaluator
from lookaway.serving.vllm.attachment import sizes_of
from lookaway.serving.vllm.metrics import saved_flops

D, HEADS, KV, HEAD, DENSE, EXPERT = 32, 4, 2, 8, 480, 24
"""Sizes of `anatomy.tiny`, and a dense FFN that is far wider than the experts."""
NONE = np.zeros(4, dtype=np.int64)


def by_hand(tokens, layer):
    """FLOPs of a layer: layers 0 and 1 are dense, 2 and 3 have 2 of 4 experts and a router."""
    ffn = 3 * D * DENSE if layer < 2 else 2 * 3 * D * EXPERT + D * 4
    attention = 2 * D * HEADS * HEAD + 2 * D * KV * HEAD
    return 2 * tokens * (ffn + attention) + 4 * HEADS * HEAD * tokens**2


def summed(tokens):
    return sum(by_hand(n, layer) for layer, n in enumerate(tokens))


@pytest.fixture(scope="module")
def example():
    """Qwen3-VL MoE whose first two layers are dense."""
    made = tiny("qwen3_vl_moe")
    config = copy.deepcopy(made.model.config)
    config.text_config.mlp_only_layers, config.text_config.intermediate_size = [0, 1], DENSE
    torch.manual_seed(0)
    model = type(made.model)._from_config(config, attn_implementation="sdpa").eval()
    return SimpleNamespace(model=model, inputs=made.inputs("single"), shape=anatomy_of(model).shape)


def result(visual_tokens, text, flops=None, again=False):
    first = visual_tokens[0]
    spent = summed([v + text for v in visual_tokens]) if flops is None else flops
    return SimpleNamespace(
        id=str(first), initial_visual_tokens=first, num_layers=4, visual_tokens=visual_tokens, flops=spent,
        full_flops=summed([first + text] * 4), full_kv_bytes=(first + text) * 4 * 2 * KV * HEAD * 4,
    )  # fmt: skip


def test_no_layer_stands_for_the_others(example):
    with pytest.raises(ValueError, match="not alike"):
        example.shape.layer_flops(7)
    assert example.shape.flops_between(7, 1, 3) == by_hand(7, 1) + by_hand(7, 2)
    assert example.shape.flops_between(7) == summed([7] * 4)
    assert example.shape.slot_bytes() == 4 * 2 * KV * HEAD * 4


def test_a_trace_and_what_vllm_would_count(example):
    with torch.no_grad(), la.attach(example.model, la.KeepSchedule([1.0, 1.0, 1.0, 0.25], ranking="uniform")) as run:
        example.model(**example.inputs)
    tokens = [layer[0] for layer in run.trace.tokens]
    assert tokens[3] < tokens[2] == tokens[0]
    cost = run.trace.cost()
    assert (cost.flops, cost.full_flops) == (summed(tokens), summed([tokens[0]] * 4))
    lost = np.array([tokens[0] - n for n in tokens])
    assert saved_flops(example.shape, tokens[0], 0, NONE, lost) == cost.full_flops - cost.flops


def test_vllm_metrics_count_the_experts_that_a_token_visits(example):
    config = example.model.config
    found = sizes_of(SimpleNamespace(hf_config=config, hf_text_config=config.text_config, dtype=torch.float16))
    assert [found.layer_flops(5, layer=layer) for layer in range(4)] == [by_hand(5, layer) for layer in range(4)]
    assert found.dtype_bytes == 2
    dense = la.anatomy(tiny("llava").model)
    config = SimpleNamespace(hf_text_config=tiny("llava").model.config.text_config, dtype=torch.float32)
    assert sizes_of(config) == dense.shape


def test_curves_of_exits(example):
    alike = np.ones((2, 4), dtype=bool)
    outcomes = ExitOutcomes((1, 2, 3, 4), alike, alike, np.array([16, 9]), np.array([5, 7]), example.shape)
    expected = [[summed([v + t] * k + [t] * (4 - k)) for k in (1, 2, 3, 4)] for v, t in ((16, 5), (9, 7))]
    assert outcomes.flops.tolist() == expected


def test_budgets_and_their_schedules(example):
    loads, span = Workload(example.shape, (16, 8), (5, 7)), Span(4)

    def spent(counts):
        return summed([c + 5 for c in counts]) + summed([round(c / 16 * 8) + 7 for c in counts])

    assert loads.share((16, 16, 6, 2)) == pytest.approx(spent((16, 16, 6, 2)) / spent((16,) * 4), abs=1e-12)
    assert loads.share((16, 8, 8, 8), "tokens") == pytest.approx(40 / 64)
    budget = Budget(0.94, "flops", loads, span)
    found = solve(logistic(span, 0.5), budget).counts
    assert spent(found) <= 0.94 * spent((16,) * 4)
    for layer in range(span.first, 4):
        if found[layer] < found[layer - 1]:
            more = [*found[:layer], found[layer] + 1, *found[layer + 1 :]]
            assert spent(more) > 0.94 * spent((16,) * 4)


def test_outcomes_of_a_fit_and_the_work_of_a_search(example):
    visual = np.array([[16, 16, 4, 0], [9, 9, 9, 2]])
    found = Outcomes.of_layers(np.ones(2, bool), np.ones(2), visual, np.array([5, 7]))
    rows = [[v + t for v in row] for row, t in zip(visual.tolist(), (5, 7), strict=True)]
    assert found.flops(example.shape).tolist() == [summed(row) for row in rows]
    assert found.flops(example.shape, 2).tolist() == [sum(by_hand(row[i], i) for i in (2, 3)) for row in rows]
    assert found.kv(example.shape).tolist() == [sum(row) * 2 * KV * HEAD * 4 for row in rows]
    evaluator = SimpleNamespace(work=SimpleNamespace(spent=0))
    trace = SimpleNamespace(shape=example.shape, tokens=[list(column) for column in zip(*rows, strict=True)])
    ModelScheduleEvaluator._spend(evaluator, trace, 1, 4)
    assert evaluator.work.spent == sum(by_hand(row[i], i) for row in rows for i in (1, 2, 3))


def test_baselines_at_the_same_cost(example):
    """An exit before layer 2 saves the cheap layers alone: a mean layer would take it for half of the cost."""
    results = [result([16, 16, 0, 0], 5), result([12, 12, 0, 0], 6)]
    assert [prompt_tokens(r, example.shape) for r in results] == [21, 18]
    share = equal_share(results, example.shape, 1)

    def spent(part):
        return sum(summed([v + t, *[round(part * v) + t] * 3]) for v, t in ((16, 5), (12, 6)))

    allowed = sum(r.flops for r in results)
    assert spent(share) >= allowed
    assert spent(share - 1 / 16) < allowed
    exits = [b for b in baselines_for(results, anatomy_of(example.model), {}) if "fixed exit" in b.name]
    # The first exit that inside allows and that costs as much: deepstack lets nothing leave earlier than before 2.
    assert [b.policy.layer for b in exits] == [max(2, anatomy_of(example.model).first_prunable_layer)]
    assert not looked_again(results[0], example.shape)
    assert looked_again(result([16, 16, 0, 0], 5, results[0].flops + 1), example.shape)


def test_a_second_look_counts_its_first_pass_by_layer(example):
    first = anatomy_of(example.model).first_prunable_layer
    cheap = la.KeepSchedule([1.0] * first + [0.0] * (4 - first))
    policy = la.SecondLook(cheap, la.KeepAll(), threshold=1.0)  # every row looks again
    with torch.no_grad(), la.attach(example.model, policy) as run:
        example.model.generate(**example.inputs, max_new_tokens=1, do_sample=False)
    trace = run.trace
    assert trace.looked_again == [True]
    whole, text = trace.tokens[0][0], trace.tokens[0][0] - trace.initial_visual_tokens[0]
    assert trace.cost().flops == summed([whole] * 4) + sum(by_hand(text, i) for i in range(first, 4))
