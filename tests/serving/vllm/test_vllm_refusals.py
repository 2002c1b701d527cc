"""What the plugin refuses, each with the cure in the message."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from vllm_engine import WITHOUT_CHUNKS, core, engine, request, run_together, runner, sampling

import lookaway as la
from lookaway.core.base_model import BaseModel
from lookaway.core.errors import ModelMismatch, SettingsError, UnsupportedModel
from lookaway.serving.vllm.refusals import check_config, check_model, check_weights
from lookaway.serving.vllm.settings import Settings

pytestmark = pytest.mark.vllm
LAYERS = 6
GATES = la.VisualExit(la.ExitGates(128, range(1, LAYERS)), 0.5)


def settings(policy):
    return Settings({"default": policy}, "default", LAYERS)


@pytest.fixture(scope="module")
def config(judges):
    """A configuration that is accepted."""
    from vllm import EngineArgs

    return EngineArgs(
        str(judges("llava").folder), dtype="float32", enforce_eager=True, enable_prefix_caching=False, max_model_len=512
    ).create_engine_config()


class With:
    """A configuration with some values changed, the original untouched."""

    def __init__(self, config, **changed):
        self._config, self._changed = config, changed

    def __getattr__(self, name):
        if name in self._changed:
            return self._changed[name]
        return getattr(self._config, name)


def changed(config, path, value):
    part, _, name = path.rpartition(".")
    return With(config, **({part: With(getattr(config, part), **{name: value})} if part else {name: value}))


@pytest.mark.parametrize(
    ("path", "value", "cure"),
    [
        ("use_v2_model_runner", True, "VLLM_USE_V2_MODEL_RUNNER=0"),
        ("model_config.enforce_eager", False, "--enforce-eager"),
        ("kv_events_config", SimpleNamespace(enable_kv_cache_events=True), "leave out enable_kv_cache_events"),
        ("speculative_config", object(), "--speculative-config"),
        ("kv_transfer_config", object(), "--kv-transfer-config"),
        ("lora_config", object(), "merge them"),
        ("cache_config.kv_sharing_fast_prefill", True, "--kv-sharing-fast-prefill"),
        ("cache_config.sliding_window", 64, "without one"),
        ("model_config.use_mla", True, "without it"),
        ("model_config.runner_type", "pooling", "--runner generate"),
        ("parallel_config.pipeline_parallel_size", 2, "--pipeline-parallel-size 1"),
        ("parallel_config.data_parallel_size", 2, "one server a GPU"),
        ("parallel_config.decode_context_parallel_size", 2, "context parallelism"),
        ("parallel_config.prefill_context_parallel_size", 2, "context parallelism"),
        ("parallel_config.enable_dbo", True, "--enable-dbo"),
    ],
)
def test_settings_of_vllm(config, path, value, cure):
    check_config(config, settings(la.ExitAt(3)))
    with pytest.raises(SettingsError, match=cure):
        check_config(changed(config, path, value), settings(la.ExitAt(3)))


def test_all_reasons_stand_in_one_message(config):
    wrong = With(config, lora_config=object(), use_v2_model_runner=True)
    with pytest.raises(SettingsError, match=r"(?s)VLLM_USE_V2.*LoRA"):
        check_config(wrong, settings(la.ExitAt(3)))


def test_chunked_prefill_with_a_policy_that_looks(config):
    assert config.scheduler_config.enable_chunked_prefill
    for policy in (GATES, la.FastV(2, 0.5), la.chain(la.FastV(2, 0.5), la.ExitAt(4))):
        with pytest.raises(SettingsError, match="--no-enable-chunked-prefill"):
            check_config(config, settings(policy))


def test_graphs_of_decoding_steps_on_ones_own_risk(config):
    """Never run on a GPU: refused unless a setting says so, and prompts stay eager with it."""
    own_risk = replace(settings(la.ExitAt(3)), unproved_cuda_graphs=True)
    check_config(config, own_risk)  # eager
    for mode, graphs, fits in [
        (0, "FULL_DECODE_ONLY", True), (0, "NONE", True), (0, "FULL", False), (0, "FULL_AND_PIECEWISE", False),
        (3, "FULL_DECODE_ONLY", False),
    ]:  # fmt: skip
        compilation = SimpleNamespace(mode=mode, cudagraph_mode=SimpleNamespace(name=graphs, value=graphs != "NONE"))
        graphed = With(changed(config, "model_config.enforce_eager", False), compilation_config=compilation)
        with pytest.raises(SettingsError, match="--enforce-eager"):
            check_config(graphed, settings(la.ExitAt(3)))
        if fits:
            check_config(graphed, own_risk)
        else:
            with pytest.raises(SettingsError, match="FULL_DECODE_ONLY"):
                check_config(graphed, own_risk)


def test_tensor_parallelism_with_a_ranking_by_attention(config):
    several = changed(
        changed(config, "scheduler_config.enable_chunked_prefill", False), "parallel_config.tensor_parallel_size", 2
    )
    check_config(several, settings(GATES))
    with pytest.raises(SettingsError, match="--tensor-parallel-size 1"):
        check_config(several, settings(la.FastV(2, 0.5)))


def test_tensor_parallelism_with_a_second_look(config):
    several = changed(
        changed(config, "scheduler_config.enable_chunked_prefill", False), "parallel_config.tensor_parallel_size", 2
    )
    with pytest.raises(SettingsError, match=r"(?s)second look.*--tensor-parallel-size 1"):
        check_config(several, settings(la.SecondLook(la.CDPruner(0.1), la.KeepAll())))


def test_downsampling_where_no_grid_is_known(config):
    whole = changed(config, "scheduler_config.enable_chunked_prefill", False)
    check_config(whole, settings(la.Downsample(2)))
    other = With(whole, model_config=With(config.model_config, architectures=["InternVLForConditionalGeneration"]))
    for policy in (la.Downsample(2), la.SecondLook(la.Downsample(2), la.KeepAll())):
        with pytest.raises(SettingsError, match=r"rows and columns.*UniformKeep"):
            check_config(other, settings(policy))


def test_another_architecture(config):
    other = changed(config, "model_config.architectures", ["Qwen3VLForConditionalGeneration"])  # deepstack
    with pytest.raises(UnsupportedModel, match=r"Qwen3VL.*LlavaForConditionalGeneration"):
        check_config(other, settings(la.ExitAt(3)))


def test_a_policy_of_another_model(config):
    base = BaseModel("LlavaForConditionalGeneration", LAYERS, 128, 128)
    for changes in ({"hidden_size": 64}, {"architecture": "Qwen2VLForConditionalGeneration"}):
        policy = la.VisualExit(la.ExitGates(128, [1]), None, base=replace(base, **changes))
        with pytest.raises(ModelMismatch, match="made for"):
            check_config(config, settings(policy))
    check_config(config, settings(la.VisualExit(la.ExitGates(128, [1]), None, base=base)))


def test_a_policy_of_other_weights(config, judges):
    """The digest of the files is that of the loaded model, as training saves it."""
    identity = la.anatomy(judges("llava").model).identity
    ours = la.VisualExit(la.ExitGates(128, [1]), 0.5, base=identity)
    check_weights(config.model_config, settings(ours))
    theirs = la.VisualExit(la.ExitGates(128, [1]), 0.5, base=replace(identity, weights="0" * 32))
    with pytest.raises(ModelMismatch, match="allow_other_model"):
        check_weights(config.model_config, settings(theirs))
    check_weights(config.model_config, replace(settings(theirs), allow_other_model=True))


def test_another_version_of_vllm(config, monkeypatch):
    import vllm

    monkeypatch.setattr(vllm, "__version__", "0.33.0")
    with pytest.raises(SettingsError, match=r"0\.32, not with 0\.33\.0"):
        check_config(config, settings(la.ExitAt(3)))


def test_decoders_with_another_loop_and_sliding_windows():
    class GPT2Model:
        pass

    with pytest.raises(UnsupportedModel, match="GPT2Model"):
        check_model(SimpleNamespace(language_model=SimpleNamespace(model=GPT2Model())))

    class Qwen2Model:
        layers = (SimpleNamespace(self_attn=SimpleNamespace(attn=SimpleNamespace(sliding_window=32))),)

    with pytest.raises(UnsupportedModel, match="sliding window"):
        check_model(SimpleNamespace(language_model=SimpleNamespace(model=Qwen2Model())))


def test_an_engine_with_a_refused_setting_does_not_start(judges):
    judge = judges("llava")
    with (
        pytest.raises(SettingsError, match="--enforce-eager"),
        engine(judge, {"policy": judge.saved["exit-3"]}, enforce_eager=False),
    ):
        pass


def test_requests(judges):
    """A refused request is the client's error; the engine goes on, and so do requests without a policy."""
    from vllm.exceptions import VLLMValidationError

    judge = judges("llava")
    with engine(judge, {"policies": {"exit-3": judge.saved["exit-3"]}}, **WITHOUT_CHUNKS) as llm:
        for params, words in [
            (sampling("exit-4"), r"no policy 'exit-4'.*'exit-3', 'off'"),
            (sampling(prompt_logprobs=1), "prompt_logprobs"),
        ]:
            with pytest.raises(VLLMValidationError, match=words):
                llm.generate(request(judge, 0), params, use_tqdm=False)
        llm.generate(request(judge, 0), sampling("off", prompt_logprobs=1), use_tqdm=False)
        run_together(llm, judge, ["exit-3", "off"])


def test_not_configured_means_untouched(judges):
    """The hooks are there, and idle."""
    judge = judges("llava")
    with engine(judge, None, **WITHOUT_CHUNKS) as llm:
        assert runner(llm).lookaway is None
        assert len(core(llm).scheduler.kv_cache_config.kv_cache_groups) == 1
        run_together(llm, judge, ["off", "off"])
