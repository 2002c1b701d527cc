"""Steps in which nothing leaves run in vLLM's own decoder, with metadata that say what each layer holds."""

import random
from types import SimpleNamespace

import pytest
import torch
from vllm_engine import WITHOUT_CHUNKS, compare, engine, request, runner, sampling
from vllm_judge import COUNT, STATIC

import lookaway as la
from lookaway.serving.vllm.plan import Plan
from lookaway.serving.vllm.steady_steps import SteadySteps, boundaries

LAYERS = 6
GATES = la.VisualExit(la.ExitGates(16, [1, 3]), 0.5)


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ([la.ExitAt(None)], [0]),
        ([la.ExitAt(3)], [0, 3]),
        ([la.VTW(5), la.ExitAt(1)], [0, 1, 5]),
        ([la.chain(la.FastV(2, 0.5), GATES)], [0, 1, 2, 3]),
        ([la.SecondLook(la.FastV(2, 0.5), la.ExitAt(4), 0.5)], [0, 2, 4]),
    ],
)
def test_stretches_begin_where_a_policy_may_drop(policies, expected):
    assert boundaries([Plan.of(policy, LAYERS) for policy in policies], LAYERS) == expected


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def served(request, judges):
    judge = judges(request.param)
    with engine(judge, {"policies": judge.table, "default": "off"}, **WITHOUT_CHUNKS) as llm:
        yield judge, llm


def answers(llm, judge, names):
    """Tokens and log-probabilities of prompts that arrive one after the other, so that prompts and answers mix."""
    arriving = list(enumerate(names))
    draw, found = random.Random(5), {}
    while arriving or llm.llm_engine.has_unfinished_requests():
        for _ in range(min(draw.choice([0, 1, 2]), len(arriving))):
            index, name = arriving.pop(0)
            llm.llm_engine.add_request(str(index), request(judge, index), sampling(name))
        for output in llm.llm_engine.step() if llm.llm_engine.has_unfinished_requests() else ():
            if output.finished:
                compare(judge, int(output.request_id), names[int(output.request_id)], output)
                got = output.outputs[0]
                found[output.request_id] = [
                    (token, step[token].logprob) for token, step in zip(got.token_ids, got.logprobs, strict=True)
                ]
    return found


@pytest.mark.vllm
def test_decoding_is_that_of_the_narrowed_loop(served, monkeypatch):
    """The loop over layers decodes, too, where it is made to: the same numbers, mixed batches of all policies."""
    judge, llm = served
    attached, steps = runner(llm).lookaway, {True: [], False: []}
    plain = attached.decoder.run

    def run(runner, groups, requests, *args):
        steps[loop].append(any(request.visual.any() for request in requests))
        return plain(runner, groups, requests, *args)

    monkeypatch.setattr(attached.decoder, "run", run)
    choices, found = ("off", *judge.table), {}
    for loop in (False, True):
        if loop:
            monkeypatch.setattr(attached.decoder.steady, "prepare", lambda *args: None)
        for shift in (0, 7):
            names = [choices[(i + shift) % len(choices)] for i in range(COUNT)]
            found[loop, shift] = answers(llm, judge, names)
    assert all(steps[False])  # without visual rows the loop is not entered
    assert not all(steps[True])
    for shift in (0, 7):
        assert found[False, shift].keys() == found[True, shift].keys()
        for key, answer in found[False, shift].items():
            assert [token for token, _ in answer] == [token for token, _ in found[True, shift][key]]
            logprobs = [[logprob for _, logprob in way] for way in (answer, found[True, shift][key])]
            assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-5)


@pytest.mark.vllm
def test_what_a_captured_graph_would_read_stays_where_it_is(served, monkeypatch):
    """Lengths and slots of each layer: one address for a step that is captured and for all that follow, and in them the
    numbers of the step at hand."""
    judge, llm = served
    attached, seen = runner(llm).lookaway, []
    plain = runner(llm)._build_attention_metadata

    def build(*args, **kwargs):
        metadata, common = plain(*args, **kwargs)
        if attached.decoder.steady.apply:
            seen.append(
                {
                    name: (found.seq_lens.data_ptr(), found.slot_mapping.data_ptr(), attached.slots[name].data_ptr())
                    for name, found in metadata.items()
                }
            )
        return metadata, common

    monkeypatch.setattr(runner(llm), "_build_attention_metadata", build)
    runner(llm)._dummy_run(4, force_attention=True, uniform_decode=True)
    assert len(seen) == 1
    for name in ("exit-3", "gates"):
        compare(judge, 0, name, llm.generate(request(judge, 0), sampling(name), use_tqdm=False)[0])
    assert len(seen) > 5
    assert all(step == seen[0] for step in seen)
    for places in seen[0].values():
        assert places[1] == places[2]
    assert len(set(seen[0].values())) == len(set(attached.decoder.steady.stretches.values())) == LAYERS


@pytest.mark.vllm
def test_stretches_are_parts_of_kv_cache_groups(judges):
    """With two fixed exits: six groups of one layer, and as many stretches; with one group, three stretches."""
    judge = judges("llava")
    for own, count in ((True, LAYERS), (False, 4)):
        given = {"policies": {name: judge.saved[name] for name in STATIC}, "own_kv_groups": own}
        with engine(judge, given, **WITHOUT_CHUNKS) as llm:
            stretches = runner(llm).lookaway.decoder.steady.stretches
            assert len(set(stretches.values())) == count  # exits at 1, 3 and 5
            groups = [group for groups in runner(llm).attn_groups for group in groups]
            assert sorted(name for group in groups for name in group.layer_names) == sorted(stretches)
            assert all(group.stretch is stretches[name] for group in groups for name in group.layer_names)


def test_the_numbers_of_a_step():
    """By hand: a request that decodes behind an exit at layer 1, one without a picture, padding of 1."""

    class Buffer:
        def __init__(self, size, dtype):
            self.cpu = torch.zeros(size, dtype=dtype)
            self.np, self.gpu = self.cpu.numpy(), self.cpu

        def copy_to_gpu(self, n=None):
            pass

    from lookaway.serving.vllm.steady_steps import Stretch

    steady = SteadySteps(["a", "b"], [Plan.of(la.ExitAt(1), 2)])
    stretches = [Stretch(0, layer, Buffer(4, torch.int32), Buffer(8, torch.int64)) for layer in (0, 1)]
    steady.stretches = dict(zip("ab", stretches, strict=True))
    table = torch.tensor([[7, 5, 3], [2, 9, 0]]).numpy()
    block_table = SimpleNamespace(block_size=4, get_numpy_array=lambda: table)
    fake = SimpleNamespace(input_batch=SimpleNamespace(block_table=[block_table]))
    requests = [
        SimpleNamespace(rows=1, done=9, held=SimpleNamespace(gone=[0, 5])),
        SimpleNamespace(rows=2, done=3, held=SimpleNamespace(gone=[0, 0])),
    ]
    slots = {name: torch.zeros(3, dtype=torch.int64) for name in "ab"}
    steady.prepare(fake, requests, slots)
    assert steady.apply
    assert [stretch.lengths.cpu.tolist() for stretch in stretches] == [[10, 5, 0, 0], [5, 5, 0, 0]]
    assert slots["a"].tolist() == [3 * 4 + 1, 2 * 4 + 3, 9 * 4 + 0]
    assert slots["b"].tolist() == [5 * 4 + 0, 2 * 4 + 3, 9 * 4 + 0]
    assert [stretch.longest for stretch in stretches] == [10, 5]
    steady.prepare(fake, requests[:1], slots)  # fewer rows: nothing of the step before is left behind them
    assert slots["b"].tolist() == [5 * 4 + 0, -1, -1]
    assert stretches[1].lengths.cpu.tolist() == [5, 0, 0, 0]
