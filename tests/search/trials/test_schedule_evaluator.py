"""An evaluator's replayed trials equal runs of the whole model under the schedule; what it saves is counted."""

import numpy as np
import pytest
import torch
from PIL import Image

from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.errors import AttachError, DataError
from lookaway.core.record import Sample
from lookaway.engine.api import attach
from lookaway.engine.replay.tape import record_tape
from lookaway.models.encoding import encode
from lookaway.policies.fixed import ExitAt
from lookaway.policies.keep_schedule import KeepSchedule
from lookaway.search.schedules.budget import Schedule
from lookaway.search.schedules.g_search import GSearchOptions, g_search
from lookaway.search.schedules.vtw import find_withdrawal
from lookaway.search.trials.effectiveness import Answers, effectiveness
from lookaway.search.trials.queue import TrialQueue
from lookaway.search.trials.samples import check_disjoint, choose_target, fingerprint, targets, with_images
from lookaway.search.trials.schedule_evaluator import ModelScheduleEvaluator

LAYERS = 6


def sample(number, question=None, answer="ab", picture=None):
    pixels = np.random.default_rng(number if picture is None else picture).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    words = question or f"what is {number}" + "?" * (number % 4)
    content = [{"type": "image"}, {"type": "text", "text": words}]
    return Sample(str(number), [{"role": "user", "content": content}], (Image.fromarray(pixels),), answer)


@pytest.fixture(scope="module")
def model():
    return tiny("llava", num_layers=LAYERS).model


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture
def evaluator_of(model, processor):
    def make(samples, target="answer", of=model, **more):
        answers = targets(of, processor, samples, target, max_new_tokens=4)
        return ModelScheduleEvaluator(of, processor, samples, answers, batch_size=3, **more), answers

    return make


def slow(model, processor, one, answer, policy):
    """(loss, argmax right) of one sample alone, the whole model with the policy attached to the prompt."""
    encoded = encode(processor, [one], answers=[answer])
    inputs, count = encoded.inputs, int(encoded.answer_mask.sum())
    prompt = {name: value[:, :-count] if name in ("input_ids", "attention_mask") else value
              for name, value in inputs.items()}  # fmt: skip
    wanted = inputs["input_ids"][0, -count:]
    with torch.no_grad(), attach(model, policy) as attached:
        first = model(**prompt, use_cache=True)
        trace = attached.trace
        rest = model(input_ids=wanted[None, :-1], past_key_values=first.past_key_values, use_cache=True).logits
    logits = torch.cat([first.logits[:, -1:], rest], 1)[0]
    loss = torch.nn.functional.cross_entropy(logits, wanted)
    return float(loss), bool((logits.argmax(-1) == wanted).all()), [layer[0] for layer in trace.visual_tokens]


SCHEDULES = [(16, 16, 11, 11, 5, 2), (16, 16, 16, 9, 9, 0), (16, 16, 3, 3, 3, 3)]


@pytest.mark.parametrize("ranking", ["last-token", "question-mean", "uniform", "key-norm"])
def test_a_replayed_trial_is_the_full_run_with_the_schedule_attached(model, processor, evaluator_of, ranking):
    samples = [sample(n) for n in range(5)]
    evaluator, answers = evaluator_of(samples, "own", ranking=ranking)
    for counts in SCHEDULES:
        schedule = Schedule(counts, 16)
        losses, rights, visual = zip(
            *(slow(model, processor, one, answer, KeepSchedule(schedule.rates, ranking))
              for one, answer in zip(samples, answers, strict=True)), strict=True)  # fmt: skip
        found, kept = evaluator.run(evaluator.policy(schedule))
        np.testing.assert_allclose(found.loss, losses, atol=1e-5)
        assert found.right.tolist() == list(rights)
        assert kept.tolist() == list(visual)
        for layer in (3, 4, 5, 6):  # settled deeper and deeper: the same, to the last bits
            evaluator.sync_cache_lengths(schedule, layer)
            evaluator._known.clear()
            verdict = evaluator.evaluate(schedule)
            assert verdict.loss == pytest.approx(np.mean(losses), abs=1e-5)


def test_own_answers_agree_with_the_full_run(evaluator_of):
    evaluator, _ = evaluator_of([sample(n) for n in range(4)], "own")
    verdict = evaluator.evaluate(Schedule((16,) * LAYERS, 16))
    assert verdict.agreement == verdict.effectiveness == verdict.flops_share == verdict.tokens_share == 1.0
    assert evaluator.full.agree.all()


def test_states_on_disk_are_the_same_states(evaluator_of):
    samples = [sample(n) for n in range(4)]
    verdicts = []
    for memory in (2**30, 0):
        evaluator, _ = evaluator_of(samples, memory=memory)
        evaluator.sync_cache_lengths(Schedule(SCHEDULES[0], 16), 3)
        assert (evaluator._states.on_disk > 0) is (memory == 0)
        verdicts.append(evaluator.evaluate(Schedule(SCHEDULES[0], 16)))
        evaluator.close()
    assert verdicts[0] == verdicts[1]


def test_a_search_on_a_model_costs_a_part_of_its_trials_run_from_the_image(evaluator_of):
    evaluator, _ = evaluator_of([sample(n) for n in range(4)])
    found = g_search(evaluator, TrialQueue("memory", "t"), GSearchOptions(tolerance=0.05))
    assert found.verdict.effectiveness >= 0.95
    assert list(found.schedule.counts) == sorted(found.schedule.counts, reverse=True)
    assert 0 < evaluator.work.spent < evaluator.work.naive
    # By hand: one full run, a blind one from layer 2 of 6, and a trial from layer 4, whose states are settled up to it.
    again, _ = evaluator_of([sample(0)], "own")
    full, shape = again.work.naive, again.anatomy.shape
    schedule = Schedule((16, 16, 8, 8, 4, 4), 16)
    again.sync_cache_lengths(schedule, 4)
    again.evaluate(schedule)
    text = full_text(shape, full, LAYERS)
    costs = [shape.layer_flops(count + text) for count in schedule.counts]
    blind = 4 * shape.layer_flops(text)
    assert again.work.spent == full + blind + sum(costs[2:4]) + sum(costs[4:])
    assert again.work.naive == full + sum(costs)
    assert again.work.trials == 1


@pytest.mark.parametrize("measure", ["loss", "agreement"])
def test_trials_that_are_certain_to_fail_stop_early_and_nothing_else_changes(evaluator_of, measure):
    samples, target = [sample(n) for n in range(7)], "own"
    sure = tiny("llava", num_layers=LAYERS).model  # of its answers, and led by its attention: a change costs much
    sure.generation_config.suppress_tokens = [sure.config.image_token_id]
    with torch.no_grad():
        sure.lm_head.weight.mul_(8)
        for layer in sure.model.language_model.layers:
            layer.self_attn.o_proj.weight.mul_(3)
    options = GSearchOptions(tolerance=0.02, resolution=0.1)
    quick, _ = evaluator_of(samples, target, sure, measure=measure)
    found = g_search(quick, TrialQueue("memory", "t"), options)
    whole, _ = evaluator_of(samples, target, sure, measure=measure)
    plain = whole.evaluate
    whole.evaluate = lambda schedule, needed=0.0: plain(schedule)
    assert g_search(whole, TrialQueue("memory", "t"), options).schedule == found.schedule
    stopped = {counts: verdict for counts, verdict in quick._known.items() if not verdict.complete}
    assert stopped
    for counts, verdict in stopped.items():
        assert plain(Schedule(counts, 16)).effectiveness <= verdict.effectiveness < 0.98
    assert quick.work.spent < whole.work.spent
    assert quick.work.naive == whole.work.naive
    full = quick.evaluate(Schedule(next(iter(stopped)), 16))  # asked without a floor it is judged to the end
    assert full.complete


def test_the_samples_that_need_their_image_most_are_judged_first(evaluator_of):
    samples = [sample(n) for n in range(6)]
    evaluator, _ = evaluator_of(samples)  # in batches of 3
    blind = evaluator.policy(Schedule((16, 16, 0, 0, 0, 0), 16))
    losses, _ = evaluator.run(blind)
    order = np.argsort(evaluator._place).tolist()  # as the batches hold them
    assert sorted(order) == list(range(6))
    assert losses.loss[order[:3]].max() == losses.loss.max()
    alone, _ = evaluator_of([samples[order[-1]]])  # and each sample keeps its own numbers
    assert evaluator.full.loss[order[-1]] == pytest.approx(alone.full.loss[0], abs=1e-5)


def full_text(shape, flops, layers):
    """Text tokens of a full run that cost so much."""
    return next(n - 16 for n in range(16, 400) if layers * shape.layer_flops(n) == flops)


def test_policies_that_reach_before_the_kept_states_are_refused(evaluator_of):
    evaluator, _ = evaluator_of([sample(0)])
    with pytest.raises(AttachError, match="Make it with first_layer=1"):
        evaluator.run(ExitAt(1))
    found, kept = evaluator.run(ExitAt(3))
    assert kept.tolist() == [[16, 16, 16, 0, 0, 0]]
    assert len(found) == 1


def test_vtw_takes_the_first_layer_below_the_threshold(model, processor):
    samples = [sample(n) for n in range(5)]
    found = find_withdrawal(model, processor, samples, batch_size=2, threshold=1e-9)
    assert found.layer is None
    assert sorted(found.divergence) == [1, 2, 3, 4, 5]
    for layer in (1, 4):  # one sample, by the whole model twice
        gaps = []
        for one in samples:
            inputs = encode(processor, [one]).inputs
            with torch.no_grad():
                full = model(**inputs).logits[0, -1].log_softmax(-1)
                with attach(model, ExitAt(layer)):
                    other = model(**inputs).logits[0, -1].log_softmax(-1)
            gaps.append(float((full.exp() * (full - other)).sum()))
        assert found.divergence[layer] == pytest.approx(np.mean(gaps), abs=1e-5)
    assert find_withdrawal(model, processor, samples, threshold=found.divergence[3] + 1e-6).layer <= 3
    with torch.no_grad():
        tape = record_tape(model, dict(encode(processor, samples[:1]).inputs))
    assert tape.anatomy.num_layers == LAYERS


def test_measures_are_one_for_the_full_run_and_say_what_is_wrong():
    full = Answers(np.array([0.2, 0.4]), np.array([True, False]), np.array([True, True]))
    worse = Answers(np.array([0.6, 0.8]), np.array([False, False]), np.array([True, False]))
    for measure in ("loss", "agreement", "score"):
        assert effectiveness(full, full, measure) == 1.0
    assert effectiveness(worse, full, "loss", slack=0.1) == pytest.approx(0.4 / 0.8)
    assert effectiveness(worse, full, "agreement") == 0.5
    assert effectiveness(worse, full, "score") == 0.0
    with pytest.raises(DataError, match="answers none of the 2"):
        effectiveness(full, worse, "score")
    empty = Answers(np.zeros(0), np.zeros(0, bool), np.zeros(0, bool))
    with pytest.raises(DataError, match="Give some --data"):
        effectiveness(empty, empty, "loss")
    broken = Answers(np.array([np.nan, 0.1]), full.right, full.agree)
    with pytest.raises(DataError, match="not finite"):
        effectiveness(broken, full, "loss")


def test_samples_of_search_and_test_must_not_meet():
    calibration = [sample(n) for n in range(3)]
    check_disjoint(calibration, [sample(7), sample(8)])
    with pytest.raises(DataError, match="1 of 2 test samples share their questions"):
        check_disjoint(calibration, [sample(9), sample(1)])
    with pytest.raises(DataError, match="share their pictures"):
        check_disjoint(calibration, [sample(9, "another question", picture=2)])
    check_disjoint(calibration, [sample(1, "the same id, but nothing else", picture=50)])
    assert fingerprint(calibration) == fingerprint([sample(n) for n in range(3)])
    assert fingerprint(calibration) != fingerprint(calibration[::-1])
    with pytest.raises(DataError, match="No sample has an image"):
        with_images([])
    with pytest.raises(DataError, match="Two samples have the id '1'"):
        with_images([sample(1), sample(1)])
    assert choose_target(calibration, "agreement") == "own"
    assert choose_target(calibration, "loss") == "answer"
    assert choose_target([*calibration, sample(5, answer=None)], "loss") == "own"
    with pytest.raises(DataError, match="no score can be taken"):
        choose_target([sample(5, answer=None)], "score")
