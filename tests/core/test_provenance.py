"""What a result depends on, by content; what differs is named with both values."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import lookaway as la
from lookaway.core import provenance as module
from lookaway.core.earlier_results import claim, differences, require_same
from lookaway.core.errors import DataError, StaleResults
from lookaway.core.provenance import (
    library,
    options_facts,
    picture_digest,
    policy_digest,
    policy_facts,
    processor_digest,
    provenance,
    sample_facts,
)
from lookaway.core.record import Sample


@pytest.fixture
def sample(tmp_path):
    Image.new("RGB", (6, 6), "red").save(tmp_path / "x.png")
    content = [{"type": "image"}, {"type": "text", "text": "what?"}]
    return Sample("a", [{"role": "user", "content": content}], (str(tmp_path / "x.png"),), "red")


def changed(one, other):
    return [line.split(":")[0] for line in differences(provenance(samples=[one]), provenance(samples=[other]))]


def test_samples_are_told_apart_by_question_answer_and_pixels_not_by_path(sample, tmp_path):
    path = Path(sample.images[0])
    moved = path.rename(tmp_path / "y.png")
    same = replace(sample, images=(str(moved),), meta={"image_names": ("y.png",)})
    before = sample_facts([same])
    assert changed(same, replace(same, answer="blue")) == ["samples.answers"]
    assert changed(same, replace(same, id="b")) == ["samples.questions"]
    assert changed(same, replace(same, meta={"answers": ["red", "rot"]})) == ["samples.answers"]
    moved.rename(path)
    assert sample_facts([replace(sample, meta={"image_names": ("x.png",)})]) == before
    Image.new("RGB", (6, 6), "blue").save(path)
    assert differences(before, sample_facts([sample]))[0].startswith("pictures: ")


def test_pictures_in_memory_by_mode_size_pixels_and_how_they_were_held():
    red, seen = Image.new("RGB", (6, 4), "red"), set()
    turned = red.copy()
    turned.getexif()[0x0112] = 6
    for image in (red, red.resize((4, 6)), red.convert("L"), Image.new("RGB", (6, 4), "blue"), turned):
        seen.add(picture_digest(image))
    assert len(seen) == 5
    assert picture_digest(red) == picture_digest(red.copy())
    palettes = [Image.new("P", (6, 4), 1) for _ in range(2)]
    palettes[0].putpalette([0, 0, 0, 255, 0, 0])
    palettes[1].putpalette([0, 0, 0, 0, 255, 0])
    assert picture_digest(palettes[0]) != picture_digest(palettes[1])
    with pytest.raises(DataError, match=r"none\.png' cannot be read"):
        picture_digest("none.png")


def test_policies_by_settings_weights_and_model():
    gates = la.ExitGates(4, (1, 2), width=2)
    policy = la.VisualExit(gates, 0.5)
    ours = policy_facts(policy.with_threshold(0.9))
    assert differences(policy_facts(policy), ours, "policy") == ["policy.settings.threshold: 0.5 -> 0.9"]
    before = policy_digest(policy)
    gates.w1.data[0, 0, 0] += 1
    assert policy_digest(policy) != before
    assert len(differences(policy_facts(policy), {**policy_facts(policy), "digest": before})) == 1
    assert policy_digest(la.ExitAt(3)) != policy_digest(la.VTW(3))


def test_a_policy_without_a_saved_form_equals_nothing_else():
    class Mine(la.Policy):
        def layers(self, num_layers, first_prunable):
            return ()

        def decide(self, view):
            raise NotImplementedError

    one, other = Mine(), Mine()
    assert policy_digest(one) == policy_digest(one) != policy_digest(other)


def test_options_that_only_name_things_are_free():
    values = {"model": "here", "data": "there", "out": Path("x"), "seed": 3, "policy": "p", "fresh": True, "lr": 0.1}
    assert options_facts(values) == {"seed": 3, "lr": 0.1}
    assert options_facts(values, free=("lr",)) == {"seed": 3}


def test_the_library_is_known_by_version_and_code(monkeypatch):
    assert library()["lookaway"] == la.__version__
    assert len(library()["code"]) == 12
    before = provenance(options={})
    monkeypatch.setattr(la, "__version__", "9.9")
    assert differences(before, provenance(options={})) == [f"library.lookaway: {before['library']['lookaway']} -> 9.9"]


def test_code_digest_covers_what_computes():
    home = Path(la.__file__).parent
    packages = {path.parent.name for path in home.glob("*/__init__.py")}
    assert packages - set(module.COMPUTING) == {"cli", "reports", "serving"}


def test_a_folder_is_taken_over_only_by_the_same_run(tmp_path):
    left = tmp_path / "checkpoint-1"
    claim(tmp_path, {"options": {"lr": 0.1}}, leftovers=[left])
    left.mkdir()
    claim(tmp_path, {"options": {"lr": 0.1}}, leftovers=[left])
    with pytest.raises(
        StaleResults, match=r"Different now: options\.lr: 0\.1 -> 0\.2\. Give another --out, or --fresh"
    ):
        claim(tmp_path, {"options": {"lr": 0.2}}, leftovers=[left])
    assert left.exists()
    claim(tmp_path, {"options": {"lr": 0.2}}, fresh=True, leftovers=[left])
    assert not left.exists()


def test_leftovers_that_do_not_say_what_they_depend_on_are_refused(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(StaleResults, match=r"does not say what its results depend on \(lookaway 0\.1"):
        claim(tmp_path, {}, leftovers=[tmp_path / "checkpoint-1"])
    with pytest.raises(StaleResults, match="wrote no provenance"):
        require_same(None, {}, "x")


def test_a_processor_is_the_same_before_and_after_its_use():
    """The tokenizer remembers how it padded and cut the latest batch; a run that goes on later is of the same one."""
    from lookaway.anatomy.tiny.processor import tiny_processor

    processor = tiny_processor()
    before = processor_digest(processor)
    processor.tokenizer(["a", "a b c"], padding=True, padding_side="left", truncation=True, max_length=2)
    assert processor_digest(processor) == before
    processor.tokenizer.add_tokens(["zebra"])
    assert processor_digest(processor) != before
