"""vLLM's engine on a judge's model, in this process, and comparison of what it answers."""

import os
from contextlib import contextmanager

import pytest
from vllm_judge import NEW_TOKENS

WITHOUT_CHUNKS = {"enable_chunked_prefill": False, "max_num_batched_tokens": 1024}
LOGPROB_TOLERANCE = 1e-4  # float32 on both sides; they differ by about 1e-5


@contextmanager
def engine(judge, lookaway, **options):
    """An `LLM`; the policies of `lookaway` are the judge's by name unless it says otherwise. None: not configured."""
    from vllm import LLM
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    if lookaway is not None:
        options["additional_config"] = {"lookaway": lookaway}
    options = {
        "dtype": "float32", "enforce_eager": True, "enable_prefix_caching": False, "max_model_len": 512,
        "block_size": 32, "num_gpu_blocks_override": 400, "limit_mm_per_prompt": {"image": 2, "video": 0},
        "seed": 0, "mm_processor_cache_gb": 0, **options,
    }  # fmt: skip
    llm = LLM(str(judge.folder), **options)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()


def request(judge, index):
    text, images = judge.prompts[index]
    return {"prompt": text, **({"multi_modal_data": {"image": images}} if images else {})}


def sampling(name=None, **more):
    from vllm import SamplingParams

    chosen = None if name is None else {"lookaway": name}
    return SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True, logprobs=1, extra_args=chosen, **more)


def compare(judge, index, name, output):
    """Fail unless a `RequestOutput` has the judge's tokens and log-probabilities."""
    tokens, logprobs, _, saved = judge.answer(index, name)
    got = output.outputs[0]
    assert list(got.token_ids) == tokens, f"{judge.family}, prompt {index}, policy {name}"
    found = [step[token].logprob for step, token in zip(got.logprobs, tokens, strict=True)]
    assert found == pytest.approx(logprobs, abs=LOGPROB_TOLERANCE), f"{judge.family}, prompt {index}, policy {name}"
    if judge.prompts[index][1] and name not in (None, "off"):  # a picture under a policy
        report = dict(output.lookaway)
        looked_again = report.pop("looked_again", False)
        del report["policy"]
        if looked_again:  # transformers goes on at the first removal, vLLM begins again
            again = judge.policies[name].first.layers(judge.model.config.get_text_config().num_hidden_layers, 1)[0]
            for key in ("prefill_flops", "prefill_flops_share"):
                here, there = report.pop(key), saved[key]
                assert here > there if again else here == pytest.approx(there)
            saved = {key: value for key, value in saved.items() if not key.startswith("prefill_flops")}
        assert report == pytest.approx(saved), f"{judge.family}, prompt {index}, policy {name}"


def run_together(llm, judge, names, first=0):
    """Prompts at once, prompt `first + i` with policy names[i]; each compared."""
    indexes = range(first, first + len(names))
    outputs = llm.generate(
        [request(judge, index) for index in indexes], [sampling(name) for name in names], use_tqdm=False
    )
    for index, name, output in zip(indexes, names, outputs, strict=True):
        compare(judge, index, name, output)


def core(llm):
    """The engine's core: scheduler and, below it, the model's runner."""
    return llm.llm_engine.engine_core.engine_core


def runner(llm):
    return core(llm).model_executor.driver_worker.worker.model_runner


def environment(**more):
    return {**os.environ, **more}
