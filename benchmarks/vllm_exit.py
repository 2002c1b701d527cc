"""What a fixed exit saves inside vLLM: time of a request, and requests that fit into the same KV memory.

Both policies are served by one engine in one process, chosen by request, and timed in turn, so that other work on the
machine meets both. Needs the environment of `make test-vllm`:

    OMP_NUM_THREADS=1 .venv-vllm/bin/python benchmarks/vllm_exit.py --layer 8 --pairs 15 --tokens 1 16
"""

import os

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR", VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_USE_V2_MODEL_RUNNER="0", HF_HUB_OFFLINE="1",
)  # fmt: skip

import argparse
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from random import Random
from statistics import median

BLOCK_BYTES = 32 * 2 * 3 * 64 * 4  # of one layer: 32 tokens, keys and values, 3 heads of 64 numbers, float32
NEEDED = {"dtype": "float32", "enforce_eager": True, "enable_prefix_caching": False, "block_size": 32}


def prompts(count, draw):
    """Questions about plain pictures, one each, in the form that lookaway-mini was trained with.

    No picture comes twice: vLLM would not encode it again.
    """
    from PIL import Image

    colours = [tuple(draw.randrange(256) for _ in range(3)) for _ in range(count)]
    text = "<|im_start|><file_sep>What colour is the picture?\n"
    return [{"prompt": text, "multi_modal_data": {"image": Image.new("RGB", (112, 112), c)}} for c in colours]


def seconds(llm, requests, tokens, name):
    from vllm import SamplingParams

    chosen = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, extra_args={"lookaway": name})
    start = time.perf_counter()
    llm.generate(requests, chosen, use_tqdm=False)
    return time.perf_counter() - start


def most_at_once(folder, policy, own, kv_bytes, count=28):
    """(requests, steps): the largest number that ran in one step, of `count` that arrive together, and all steps."""
    from vllm import SamplingParams

    layers = 30
    for blocks in (None, kv_bytes):  # how many layers share a block is known when an engine was built
        with engine(folder, policy, own, blocks and blocks // (BLOCK_BYTES * layers)) as llm:
            core = llm.llm_engine.engine_core.engine_core
            layers = max(len(group.layer_names) for group in core.scheduler.kv_cache_config.kv_cache_groups)
            if blocks is None:
                continue
            for n, request in enumerate(prompts(count, Random(0))):
                chosen = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
                llm.llm_engine.add_request(str(n), request, chosen)
            most = steps = 0
            while llm.llm_engine.has_unfinished_requests():
                llm.llm_engine.step()
                most, steps = max(most, len(core.scheduler.running)), steps + 1
    return most, steps


@contextmanager
def engine(folder, policy, own, blocks):
    from vllm import LLM

    given = {"lookaway": {"policies": {"exit": policy}, "own_kv_groups": own}}
    llm = LLM(folder, **NEEDED, max_model_len=320, num_gpu_blocks_override=blocks or 400, additional_config=given)
    yield llm
    llm.llm_engine.engine_core.shutdown()


def main():
    import lookaway as la
    from lookaway.models.mini.model import prepare_mini
    from lookaway.serving.vllm.checkpoints import copy_for_vllm

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layer", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--kv-mb", type=int, default=45)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = str(copy_for_vllm(prepare_mini("plain"), Path(place) / "model"))
        policy = str(la.ExitAt(options.layer).save_pretrained(Path(place) / "policy"))
        for own in (False, True):
            most, steps = most_at_once(folder, policy, own, options.kv_mb * 2**20)
            print(f"KV memory {options.kv_mb} MB, own groups {own}: {most} requests at once, {steps} steps")
        with engine(folder, policy, False, None) as llm:
            time_pairs(llm, options)


def time_pairs(llm, options):
    draw = Random(1)
    for batch in options.batch:
        for tokens in options.tokens:
            pairs = []
            for _ in range(options.pairs + 2):
                pairs.append([seconds(llm, prompts(batch, draw), tokens, name) for name in ("off", "exit")])
            off, out = zip(*pairs[2:], strict=True)  # the first two warm up
            ratio = median(a / b for a, b in zip(off, out, strict=True))
            print(
                f"batch {batch}, {tokens} tokens: {median(off) * 1e3:.0f} ms without, "
                f"{median(out) * 1e3:.0f} ms with exit at {options.layer}; median ratio {ratio:.2f}"
            )


if __name__ == "__main__":
    main()
