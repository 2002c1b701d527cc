"""Layers behind a fixed exit need blocks for text alone, so more requests fit into the same memory."""

import pytest
from vllm_engine import WITHOUT_CHUNKS, core, engine, request, sampling

pytestmark = pytest.mark.vllm


def most_at_once(llm, judge, count):
    """The largest number of requests that ran in one step, of `count` with one picture each."""
    llm_engine, scheduler = llm.llm_engine, core(llm).scheduler
    for n in range(count):
        llm_engine.add_request(str(n), request(judge, 4 * (n % 2)), sampling())
    most = 0
    while llm_engine.has_unfinished_requests():
        llm_engine.step()
        most = max(most, len(scheduler.running))
    return most


def test_more_requests_in_the_same_memory(judges):
    judge = judges("llava")
    found = {}
    for own in (False, True):
        given = {"policy": judge.saved["exit-1"], "own_kv_groups": own}
        # Six groups of one layer have blocks of a sixth of the size: six times as many fill the same memory.
        blocks = {"num_gpu_blocks_override": 6 * 24 if own else 24, "max_model_len": 128}
        with engine(judge, given, **blocks, **WITHOUT_CHUNKS) as llm:
            groups = core(llm).scheduler.kv_cache_config.kv_cache_groups
            assert len(groups) == (6 if own else 1)
            found[own] = most_at_once(llm, judge, 24)
            pool = core(llm).scheduler.kv_cache_manager.block_pool
            assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1  # all given back, but the null block
            assert not any(manager.layouts for manager in exit_managers(llm))
    assert found[True] >= 1.5 * found[False], found


def exit_managers(llm):
    managers = core(llm).scheduler.kv_cache_manager.coordinator.single_type_managers
    return [manager for manager in managers if hasattr(manager, "layouts")]


def test_a_request_gets_blocks_for_what_its_layers_hold(judges):
    judge = judges("llava")
    given = {"policies": {"exit-3": judge.saved["exit-3"]}}
    with engine(judge, given, **WITHOUT_CHUNKS) as llm:
        for name, left_out in (("exit-3", 64), ("off", 0)):
            llm.llm_engine.add_request(name, request(judge, 0), sampling(name))
            llm.llm_engine.step()
            (running,) = core(llm).scheduler.running
            managers = core(llm).scheduler.kv_cache_manager.coordinator.single_type_managers
            blocks = {len(manager.req_to_blocks[running.request_id]) for manager in exit_managers(llm)}
            every = {
                len(manager.req_to_blocks[running.request_id])
                for manager in managers
                if not hasattr(manager, "layouts")
            }
            tokens = running.num_prompt_tokens
            assert every == {-(-tokens // 32)}
            assert blocks == {-(-(tokens - left_out) // 32)}
            while llm.llm_engine.has_unfinished_requests():
                llm.llm_engine.step()
