"""Every policy on every family: vLLM's greedy tokens and log-probabilities are transformers' with `la.attach`."""

import pytest
from vllm_checkpoints import FAMILIES
from vllm_engine import WITHOUT_CHUNKS, compare, engine, request, run_together, sampling
from vllm_judge import COUNT

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module", params=FAMILIES)
def served(request, judges):
    judge = judges(request.param)
    with engine(judge, {"policies": judge.table, "default": "off"}, **WITHOUT_CHUNKS) as llm:
        yield judge, llm


def test_requests_together_with_a_policy_each(served):
    """Rows of one batch leave at different layers, or stay."""
    judge, llm = served
    choices = ("off", *judge.table)
    for shift in (0, 5, 9):  # all choices, and three of them for each prompt
        run_together(llm, judge, [choices[(i + shift) % len(choices)] for i in range(COUNT)])


def test_a_second_look_for_those_that_need_it(served):
    """In one batch with others, some prompts of each second look run again, and some do not."""
    judge, llm = served
    for name in ("second-look", "second-look-inside"):
        before = counted("lookaway_second_looks_total", name)
        names = [name if i != 1 else "fastv" for i in range(COUNT)]
        run_together(llm, judge, names)
        with_picture = [i for i in range(COUNT) if judge.prompts[i][1] and names[i] == name]
        unsure = [i for i in with_picture if judge.first_confidence(i, name) < judge.policies[name].threshold]
        assert 0 < len(unsure) < len(with_picture)
        assert counted("lookaway_second_looks_total", name) - before == len(unsure)


def counted(counter, policy):
    from prometheus_client import REGISTRY

    return REGISTRY.get_sample_value(counter, {"policy": policy}) or 0


def test_one_by_one(served):
    judge, llm = served
    for index, name in enumerate(("off", *judge.table)):
        index %= COUNT
        compare(judge, index, name, llm.generate(request(judge, index), sampling(name), use_tqdm=False)[0])


def test_the_judge_tells_policies_apart(served):
    """Otherwise the tests above would pass with the policies left out."""
    judge, _ = served
    plain = judge.answer(2, "off")[1]  # a prompt with two pictures
    for name in judge.table:
        if name != "never":
            assert judge.answer(2, name)[1] != pytest.approx(plain, abs=0.01), f"{name} answers like no policy"


def test_gates_exit_at_different_layers(served):
    judge, _ = served
    exits = {judge.answer(i, "gates")[2] for i, (_, images) in enumerate(judge.prompts[:COUNT]) if images}
    assert len(exits) >= 2, exits


def test_kv_groups_of_their_own(judges):
    """Only fixed exits, and layers behind them hold no visual token: the same answers from fewer blocks."""
    judge = judges("llava")
    with engine(judge, {"policies": {"exit-3": judge.saved["exit-3"]}}, **WITHOUT_CHUNKS) as llm:
        run_together(llm, judge, ["exit-3"] * COUNT)
        run_together(llm, judge, ["off", "exit-3"] * (COUNT // 2))  # a request without the policy gets all blocks
