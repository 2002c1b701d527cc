"""What is configured, and what is known of a policy before a prompt was seen. Needs no vLLM."""

from types import SimpleNamespace

import pytest

import lookaway as la
from lookaway.core.errors import SettingsError
from lookaway.serving.vllm.settings import settings_of
from lookaway.serving.vllm.static_exits import empty_from, is_static

LAYERS = 6


def config(given):
    model = SimpleNamespace(hf_text_config=SimpleNamespace(num_hidden_layers=LAYERS))
    return SimpleNamespace(additional_config=given, model_config=model)


@pytest.fixture
def saved(tmp_path):
    def save(policy, name="policy"):
        return str(policy.save_pretrained(tmp_path / name))

    return save


@pytest.mark.parametrize(
    ("policy", "empty", "static"),
    [
        (la.KeepAll(), 6, True),
        (la.ExitAt(None), 6, True),
        (la.ExitAt(3), 3, True),
        (la.ExitAt(6), 6, True),
        (la.VTW(2), 2, True),
        (la.KeepSchedule([1.0, 1.0, 0.0, 0.0, 0.0, 0.0]), 2, True),  # all of them leave: nothing to rank
        (la.FastV(2, 0.5), 6, False),
        (la.RandomExit([2, 4]), 6, False),
        (la.KeepSchedule([1.0, 1.0, 0.5, 0.5, 0.0, 0.0]), 4, False),
        (la.chain(la.ExitAt(5), la.VTW(2)), 2, True),
        (la.chain(la.FastV(2, 0.5), la.ExitAt(4)), 4, False),
        (la.VisualExit(la.ExitGates(8, [1, 2]), threshold=None), 6, True),
        (la.VisualExit(la.ExitGates(8, [1, 2]), threshold=0.5), 6, False),
        (la.SecondLook(la.ExitAt(1), la.ExitAt(4)), 6, False),
    ],
    ids=repr,
)
def test_what_is_known_before_a_prompt(policy, empty, static):
    assert (empty_from(policy, LAYERS), is_static(policy, LAYERS)) == (empty, static)


def test_nothing_configured_is_nothing():
    assert settings_of(config(None)) is None
    assert settings_of(config({"gdn_prefill_backend": "x"})) is None


def test_one_policy_is_the_default_and_off_is_none(saved):
    settings = settings_of(config({"lookaway": {"policy": saved(la.ExitAt(3))}}))
    assert settings.policy(None) == la.ExitAt(3)
    assert settings.policy("off") is None
    assert settings.all_static()
    assert settings.empty_from("default") == 3
    assert settings.empty_from("off") == LAYERS


def test_several_policies_by_name_and_a_list_is_a_chain(saved):
    folders = {"late": saved(la.ExitAt(1), "a"), "both": [saved(la.FastV(2, 0.5), "b"), saved(la.ExitAt(4), "c")]}
    settings = settings_of(config({"lookaway": {"policies": folders, "default": "off"}}))
    assert settings.policy(None) is None
    assert settings.policy("both") == la.chain(la.FastV(2, 0.5), la.ExitAt(4))
    assert not settings.all_static()
    params = SimpleNamespace(extra_args={"lookaway": "late"})
    assert settings.name_for(params) == "late"
    assert settings.name_for(SimpleNamespace(extra_args=None)) == "off"
    assert settings_of(config({"lookaway": {"policies": folders}})).default == "late"  # the first that was given


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "either 'policy'"),
        ({"policy": "x", "policies": {"a": "x"}}, "either 'policy'"),
        ({"policy": "x", "polices": {}}, "takes the keys"),
        ("folder", "either 'policy'"),
        ({"policies": {}}, "at least one name"),
        ({"policies": {"off": "x"}}, "not 'off'"),
    ],
)
def test_what_cannot_be_read_is_refused(given, words):
    with pytest.raises(SettingsError, match=words):
        settings_of(config({"lookaway": given}))


def test_policies_that_cannot_be_served_are_refused(saved):
    for policy, words in [
        (la.ExitAt([1, 2]), "one layer a row"),
        (la.AttentionSkip([2]), "skips attention"),
        (la.SecondLook(la.VisionZip(0.1), la.KeepAll()), "vision tower"),
        (la.SecondLook(la.FastV(2, 0.5, ranking="last-token-no-rotary"), la.KeepAll()), "rotary phase"),
        (la.chain(la.VisionZip(0.5), la.ExitAt(4)), "vision tower"),
        (la.chain(la.DivPrune(0.5, positions="renumber"), la.ExitAt(4)), "numbers tokens anew"),
        (la.ExitAt(7), "this model allows"),
        (la.FastV(2, 0.5, ranking="last-token-no-rotary"), "rotary phase"),
        (la.VisualExit(la.ExitGates(8, (1, 2), width=2), read_every=2), "reads at later layers what it noted"),
    ]:
        with pytest.raises(SettingsError, match=words):
            settings_of(config({"lookaway": {"policy": saved(policy)}}))
    with pytest.raises(SettingsError, match="no policy 'b'"):
        settings_of(config({"lookaway": {"policies": {"a": saved(la.ExitAt(3))}, "default": "b"}}))


def test_importing_lookaway_knows_nothing_of_vllm():
    import subprocess
    import sys

    code = "import sys, lookaway, lookaway.serving.vllm; sys.exit('vllm' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_entry_point_is_declared():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {"lookaway": "lookaway.serving.vllm:register"}
