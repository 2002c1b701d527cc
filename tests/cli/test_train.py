"""`lookaway train` and `calibrate` on a user's own folder and data, and the policy that comes out of them."""

import json
import shutil

import pytest

import lookaway as la
from lookaway.cli.calibrate import Options as CalibrateOptions
from lookaway.cli.calibrate import run as calibrate
from lookaway.cli.train import Options, run
from lookaway.core.record import read_records


@pytest.fixture(scope="module")
def trained(model_folder, data_file, tmp_path_factory):
    out, cache = tmp_path_factory.mktemp("gates"), tmp_path_factory.mktemp("cache")
    run(Options(model=str(model_folder), data=str(data_file), split="all", limit=30, epochs=3, out=out, cache=cache))
    return out, cache


def test_what_was_trained_loads_attaches_and_says_where_it_comes_from(trained, model_folder):
    from lookaway.models.loading import load_model

    out, _ = trained
    policy = la.load(out)
    model, _ = load_model(model_folder, device="cpu")
    assert policy.base == la.anatomy(model).identity
    with la.attach(model, policy):
        pass
    kinds = [record["kind"] for record in read_records(out / "records.jsonl")]
    assert kinds == ["run", "training"]
    assert (out / "README.md").read_text().startswith("---\nlibrary_name: lookaway")


def test_labels_are_made_once(trained, model_folder, data_file, tmp_path, monkeypatch):
    """Other settings train on the cached table: the model does not run again."""
    _, cache = trained
    import lookaway.engine.replay.exit_table as engine

    monkeypatch.setattr(engine, "_table", lambda *a: pytest.fail("the model ran again"))
    common = {"model": str(model_folder), "data": str(data_file), "split": "all", "limit": 30, "cache": cache}
    found = run(Options(**common, epochs=2, width=8, preset="published", out=tmp_path / "gates"))
    assert found["options"]["width"] == 8
    assert found["options"]["two_way"] is True


def test_too_few_samples_are_named_before_any_work_and_the_policy_is_left_alone(
    trained, model_folder, data_file, call, monkeypatch
):
    out, cache = trained
    import lookaway.models.loading as loading

    monkeypatch.setattr(loading, "load_model", lambda *a, **k: pytest.fail("the model was loaded"))
    before = (out / "config.json").read_text()
    status, _, err = call("calibrate", "--policy", out, "--model", model_folder, "--data", data_file, "--split",
                             "all", "--limit", 20, "--cache", cache)  # fmt: skip
    assert status == 1
    assert "20 pictures (split all): at confidence 95%, 20 pictures can show at best 13.91% changed answers" in err
    assert "that takes at least 149" in err
    assert (out / "config.json").read_text() == before
    assert not out.with_name(f"{out.name}-calibrated").exists()


def test_a_policy_that_no_threshold_keeps_is_not_written_and_is_no_success(
    trained, model_folder, data_file, call, monkeypatch
):
    """The safest threshold changes every answer."""
    import lookaway.training.calibration as module

    out, cache = trained
    monkeypatch.setattr(module, "what_happens", lambda *a: {"agreement": 0.0, "mean_exit": 1.0})
    common = ["--policy", out, "--model", model_folder, "--data", data_file, "--split", "all", "--limit", 20,
              "--epsilon", 0.3, "--cache", cache, "--max-new-tokens", 4]  # fmt: skip
    before = (out / "config.json").read_text()
    status, _, err = call("calibrate", *common)
    assert status == 1
    assert "No threshold qualifies" in err
    assert (out / "config.json").read_text() == before
    assert not out.with_name(f"{out.name}-calibrated").exists()


def test_a_guarantee_that_can_be_kept_is_saved_with_the_policy(trained, model_folder, data_file, tmp_path):
    out, cache = trained
    found = calibrate(
        CalibrateOptions(policy=str(out), model=str(model_folder), data=str(data_file), split="all", limit=20,
                         delta=0.5, epsilon=0.9, out=tmp_path / "bold", cache=cache, max_new_tokens=4)
    )  # fmt: skip
    policy = la.load(tmp_path / "bold")
    assert policy.threshold == found["threshold"] is not None
    assert policy.guarantee["epsilon"] == 0.9
    assert policy.guarantee["bound"] <= 0.9


def test_gates_for_another_model_or_damaged_ones_are_refused(trained, data_file, tmp_path, call, model_folder):
    from lookaway.anatomy.tiny import tiny
    from lookaway.anatomy.tiny.processor import tiny_processor

    out, _ = trained
    other = tmp_path / "deeper"
    tiny("llava", num_layers=6).model.save_pretrained(other)
    tiny_processor().save_pretrained(other)
    image = data_file.parent / "0.png"
    status, _, err = call("ask", "--model", other, "--policy", out, "--image", image, "what?")
    assert status == 1
    assert "num_layers = 4" in err
    assert "num_layers = 6" in err

    damaged = tmp_path / "damaged"
    shutil.copytree(out, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    status, _, err = call("ask", "--model", model_folder, "--policy", damaged, "--image", image, "what?")
    assert status == 1
    assert "model.safetensors is damaged" in err


def test_data_without_images_has_nothing_to_train_on(model_folder, tmp_path, call):
    (tmp_path / "d.json").write_text(json.dumps([{"question": "1 plus 1?", "answer": "2"}]))
    status, _, err = call("train", "--model", model_folder, "--data", tmp_path / "d.json", "--split", "all",
                          "--out", tmp_path / "gates")  # fmt: skip
    assert status == 1
    assert "No sample has an image" in err
    assert not (tmp_path / "gates").exists()


def test_gates_behind_a_skip_set(model_folder, data_file, tmp_path, call):
    skip, gates = tmp_path / "skip", tmp_path / "gates"
    la.AttentionSkip((0, 2)).save_pretrained(skip)
    common = ["--model", model_folder, "--data", data_file, "--split", "all", "--limit", 12, "--cache", tmp_path / "c"]
    status, _, err = call("train", *common, "--after", skip, "--epochs", 2, "--width", 8, "--out", gates)
    assert status == 0, err
    assert "after AttentionSkip([0, 2]" in (gates / "README.md").read_text()
    status, _, err = call("calibrate", *common, "--policy", gates)
    assert status == 1
    assert "were trained after AttentionSkip([0, 2]" in err
    status, _, err = call("calibrate", *common, "--policy", gates, "--after", skip, "--delta", 0.5, "--epsilon", 0.9)
    assert status == 0, err
    assert la.load(gates).guarantee is None
    gates = tmp_path / "gates-calibrated"
    assert la.load(gates).guarantee["epsilon"] == 0.9
    status, _, err = call("eval", "--model", model_folder, "--data", data_file, "--split", "all", "--limit", 4,
                          "--policy", f"{skip},{gates}", "--score", "agreement", "--out", tmp_path / "e")  # fmt: skip
    assert status == 0, err
