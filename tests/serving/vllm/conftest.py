"""Tests marked `vllm` run in vLLM's own environment (`make test-vllm`); the others of this folder need no vLLM."""

import os
from importlib.util import find_spec

import pytest

if find_spec("vllm"):  # in the main environment nothing is changed
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: waiting for a second thread costs more than it brings
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",  # the engine in this process; the server's test takes the real way
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",  # the judge runs in the same process
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_NO_USAGE_STATS="1",
        VLLM_USE_V2_MODEL_RUNNER="0",
        HF_HUB_OFFLINE="1",
    )


@pytest.fixture(scope="session")
def judges(tmp_path_factory):
    """Family -> its judge, made on first use."""
    from vllm_judge import Judge

    made = {}

    def judge(family):
        if family not in made:
            made[family] = Judge(family, tmp_path_factory.mktemp(family))
        return made[family]

    return judge
