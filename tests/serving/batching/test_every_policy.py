"""Every policy of the table, in one batch with requests that have none and another: each answers as it does alone."""

import dataclasses

import pytest
from cases import CASES
from test_worker import Client, Finished, alone, own, prompts, worker_of, written

import lookaway as la
from lookaway.engine.cache.pruned_cache import PrunedCacheInfo

FAMILIES = ("llava", "qwen2_5_vl")


def test_joined_rows_carry_everything_that_a_cache_says():
    """A new field of the info must come through `row_of` and `join_rows`, or served answers go wrong in silence."""
    assert [field.name for field in dataclasses.fields(PrunedCacheInfo)] == ["kept_at", "length", "pad_right", "shift"]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_a_batch_with_this_policy_answers_as_each_request_alone(case, family):
    made = own(family)
    try:
        la.attach(made.model, CASES[case].make(1)).detach()
        alone(made.model, made.inputs(), CASES[case].make(1))
    except la.LookawayError as refused:
        pytest.skip(f"{family} refuses it: {refused}")
    policies = {"this": CASES[case].make(1), "exit": la.ExitAt(3)}
    first, second, third = list(prompts(made, 3))
    wanted = [(first, "this"), (third, None), (second, "this"), (second, "exit"), (third, "this"), (first, None)]
    expected = [written(made.model, alone(made.model, inputs, policies.get(name))) for inputs, name in wanted]
    worker = worker_of(made.model, policies, max_batch=4, max_waiting=10)
    clients = [Client(worker, *one) for one in wanted]
    found = [client.result() for client in clients]
    assert worker.stop()
    assert [type(last) for _, last in found] == [Finished] * len(wanted), found
    assert [text for text, _ in found] == expected
