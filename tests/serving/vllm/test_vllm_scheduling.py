"""What vLLM's scheduler may do to requests: chunks, preemption, staggered arrivals, aborts."""

import random

import pytest
from vllm_engine import WITHOUT_CHUNKS, compare, core, engine, request, run_together, runner, sampling
from vllm_judge import COUNT, STATIC, TIGHT

pytestmark = pytest.mark.vllm
FAMILIES = ("llava", "qwen2_5_vl")


def static(judge):
    return {"policies": {name: judge.saved[name] for name in STATIC}}


@pytest.mark.parametrize("chunk", [33, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_chunked_prefill_with_fixed_exits(judges, family, chunk):
    """Chunks end inside a picture, and some hold visual rows only."""
    judge = judges(family)
    options = {"enable_chunked_prefill": True, "max_num_batched_tokens": chunk, "max_num_seqs": 8}
    with engine(judge, static(judge), **options) as llm:
        for shift in (0, 1):
            run_together(llm, judge, [STATIC[(i + shift) % len(STATIC)] for i in range(COUNT)])


@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
def test_preemption(judges, chunked):
    """Too little memory: requests are thrown out and computed again, prompt and answer."""
    judge = judges("llava")
    names = STATIC if chunked else tuple(judge.table)
    chunks = {"enable_chunked_prefill": True, "max_num_batched_tokens": 64} if chunked else WITHOUT_CHUNKS
    given = {"policies": {name: judge.saved[name] for name in names}, "own_kv_groups": False}
    with engine(judge, given, num_gpu_blocks_override=14, max_model_len=256, watermark=0.0, **chunks) as llm:
        scheduler = core(llm).scheduler
        preempted = []
        plain = scheduler._preempt_request
        scheduler._preempt_request = lambda request, *args, **kwargs: (
            preempted.append(request.request_id), plain(request, *args, **kwargs)
        )  # fmt: skip
        run_together(llm, judge, [names[i % len(names)] for i in range(TIGHT)], first=COUNT)
    assert preempted


@pytest.mark.parametrize("family", FAMILIES)
def test_staggered_arrivals_and_aborts(judges, family):
    """Requests come and go while others run; those that finish are right, and nothing of the others is left behind."""
    judge = judges(family)
    names = ("off", *judge.table)
    draw = random.Random(0)
    with engine(
        judge,
        {"policies": judge.table},
        max_num_seqs=4,
        num_gpu_blocks_override=60,
        max_model_len=256,
        **WITHOUT_CHUNKS,
    ) as llm:
        arriving = [(f"r{n}", draw.randrange(COUNT), draw.choice(names)) for n in range(40)]
        known = {key: (index, name) for key, index, name in arriving}
        finished, aborted, ids = [], [], {}
        while arriving or llm.llm_engine.has_unfinished_requests():
            for _ in range(min(draw.choice([0, 0, 1, 3]), len(arriving))):
                key, index, name = arriving.pop()
                ids[key] = llm.llm_engine.add_request(key, request(judge, index), sampling(name)) or key
            running = [key for key in ids if key not in finished + aborted]
            if running and draw.random() < 0.2:
                aborted.append(draw.choice(running))
                llm.llm_engine.abort_request([ids[aborted[-1]]])
            if not llm.llm_engine.has_unfinished_requests():
                continue
            for output in llm.llm_engine.step():
                if output.finished and output.request_id not in aborted:
                    finished.append(output.request_id)
                    compare(judge, *known[output.request_id], output)
        assert len(finished) >= 15
        assert len(aborted) >= 5
        llm.generate(request(judge, 0), sampling("off"), use_tqdm=False)
        assert len(runner(llm).lookaway.held) == 1  # of the last request alone
