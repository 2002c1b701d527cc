"""What `lookaway fit` counts from stored states, held against live runs of one sample each: answers, FLOPs, cache
entries, second looks and chains, also where the model's own settings change what greedy generation takes."""

from functools import cache

import numpy as np
import pytest
import torch
from family_processor import family_processor
from prepared import question

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.errors import UnsupportedModel
from lookaway.models.encoding import encode
from lookaway.search.fit.candidates import FULL, Candidate, candidates
from lookaway.search.fit.choices import choices
from lookaway.search.fit.options import FitOptions
from lookaway.search.fit.sample_runs import SampleRuns

LAYERS, NEW, SAMPLES = 6, 3, 4
PENALTY = {"repetition_penalty": 1.6}
RULED_OUT = {"suppress_tokens": [12, 20, 31, 44], "bad_words_ids": [[15], [52]], "begin_suppress_tokens": [60, 61]}
CASES = [("llava", PENALTY), ("qwen2_5_vl", {**PENALTY, **RULED_OUT}), ("qwen3_vl", {})]


@cache
def made(family):
    """(model, processor) of a depth that leaves room behind the deepstack layers."""
    ready = tiny(family, num_layers=LAYERS)
    anatomy = la.anatomy(ready.model)
    with torch.no_grad():
        head = ready.model.get_output_embeddings().weight
        head[[t for t in (anatomy.image_token_id, *anatomy.other_visual_ids, *range(90, 97)) if t < len(head)]] = 0.0
    return ready.model, family_processor(ready)


@pytest.fixture
def set_to(monkeypatch):
    """Give a model generation settings for one test."""

    def put(model, settings):
        for name, value in settings.items():
            monkeypatch.setattr(model.generation_config, name, value, raising=False)

    return put


def live(model, processor, sample, policy):
    """(tokens up to the end, trace) of one sample alone, one token further than the answers of a fit."""
    inputs = encode(processor, [sample], model.device).inputs
    with torch.no_grad(), la.attach(model, policy) as run:
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=NEW + 1)[0, inputs["input_ids"].shape[1] :]
    return ids.tolist(), run.trace


def policies(first):
    """Kinds of policies of one pass, those that begin earlier first."""

    def keep(share, layer, ranking="uniform"):
        return la.KeepSchedule.from_steps({layer: share}, LAYERS, ranking=ranking)

    torch.manual_seed(5)
    gates = la.VisualExit(la.ExitGates(32, (first + 1, first + 2), width=4), 0.5)
    return {
        "before": la.DivPrune(0.3),
        "uniform": keep(0.2, first),
        "last-token": keep(0.4, first, "last-token"),
        "exit": la.ExitAt(first),
        "chain": la.chain(keep(0.5, first), la.ExitAt(first + 2)),
        "gates": la.chain(keep(0.6, first), gates),
    }


@pytest.mark.parametrize(("family", "settings"), CASES)
def test_outcomes_and_second_looks_are_those_of_live_runs(family, settings, set_to):
    model, processor = made(family)
    set_to(model, settings)
    anatomy = la.anatomy(model)
    tried = [Candidate(name, "own", policy) for name, policy in policies(anatomy.first_prunable_layer).items()]
    tried.append(Candidate(FULL, "full model", la.KeepAll()))
    samples = [question(number) for number in range(SAMPLES)]
    runs = SampleRuns(model, processor, samples, start=0, batch_size=3, max_new_tokens=NEW)
    found = {c.key: runs.outcomes(c.policy) for c in tried[:-1]} | {FULL: runs.full}
    full = [live(model, processor, sample, la.KeepAll())[0] for sample in samples]
    for one in tried:
        for number, sample in enumerate(samples):
            said, trace = live(model, processor, sample, one.policy)
            assert found[one.key].same[number] == (said == full[number]), (one.key, number)
            assert found[one.key].flops(anatomy.shape)[number] == trace.cost().flops, (one.key, number)
            assert found[one.key].kv(anatomy.shape)[number] == trace.cost().kv_bytes, (one.key, number)
    changed = [int((~one.same).sum()) for one in found.values()]
    assert max(changed) > 0  # something is told apart
    # every second look that a fit would make of them, in both units of cost
    between = sorted(float(np.sort(found[key].sure)[2:4].mean()) for key in ("uniform", "before"))
    for unit in ("flops", "kv"):
        options = FitOptions(cost=unit, thresholds=(*between, 1.0), methods=("second-look",))
        looks = [c for c in choices(tried, found, runs.full, anatomy.shape, options, runs.second_look_from) if c.then]
        assert looks
        for look in looks[:: max(1, len(looks) // 4)]:
            policy = look.policy({c.key: c for c in tried}, options)
            for number, sample in enumerate(samples):
                said, trace = live(model, processor, sample, policy)
                assert look.same[number] == (said == full[number]), (look.name, number)
                cost = trace.cost()
                assert look.cost[number] == (cost.flops if unit == "flops" else cost.kv_bytes), (look.name, number)
    runs.close()


def test_settings_that_one_pass_does_not_tell_are_refused_with_the_cure():
    model, processor = made("llava")
    for settings in ({"num_beams": 3}, {"no_repeat_ngram_size": 2}, {"bad_words_ids": [[3, 4]]}, {"min_new_tokens": 2}):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setattr(model.generation_config, name, value, raising=False)
            with pytest.raises(UnsupportedModel, match=f"sets {next(iter(settings))}=.*Set it to"):
                SampleRuns(model, processor, [question(0)], max_new_tokens=NEW)


def test_logits_that_are_no_numbers_are_not_the_same_answer():
    model, processor = made("llava")
    head = model.get_output_embeddings().weight
    kept = head.detach().clone()
    try:
        with torch.no_grad():
            head[7] = torch.nan
        with pytest.raises(UnsupportedModel, match="no numbers"):
            SampleRuns(model, processor, [question(0), question(1)], max_new_tokens=NEW)
    finally:
        with torch.no_grad():
            head.copy_(kept)


def test_what_a_fit_cannot_join_to_a_second_look_is_left_out():
    """A policy that numbers positions anew may be a candidate of one's own, and no part of a second look."""
    options = FitOptions(
        methods=("before-decoder", "second-look"), before_shares=(0.2, 0.5), before_decoder=("cdpruner",)
    )
    own = {"anew": la.CDPruner(0.3, positions="renumber")}
    tried = candidates(LAYERS, 1, options, own)
    model, processor = made("llava")
    runs = SampleRuns(model, processor, [question(number) for number in range(3)], start=0, max_new_tokens=NEW)
    found = {c.key: runs.outcomes(c.policy) for c in tried if c.key != FULL} | {FULL: runs.full}
    made_of = {
        key for c in choices(tried, found, runs.full, la.anatomy(model).shape, options) if c.then for key in c.keys
    }
    assert made_of
    assert "own/anew" not in made_of
    runs.close()
