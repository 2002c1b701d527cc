"""Published folders: recognised by their keys, read without running code, refused with the reason and the cure."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from golden_cases import GOLDEN, change, checkpoint
from safetensors.torch import load_file, save_file

from lookaway.core.errors import PreparationError, UnsupportedModel
from lookaway.models.layouts import convert as convert_module
from lookaway.models.layouts.convert import KEY, convert
from lookaway.models.layouts.detection import plan_for, recognise
from lookaway.models.layouts.doctor import diagnose
from lookaway.models.layouts.plan import build, checked_pieces
from lookaway.models.layouts.reader import Shards

VILA, LLAVA = "VILA-7b", "llava-v1.5-7b"
CLIP = GOLDEN / "towers" / "openai" / "clip-vit-large-patch14-336"


def test_layouts_are_recognised_by_their_keys(copy, tmp_path):
    assert recognise(checkpoint(LLAVA)).name == "llava-1.5"
    assert recognise(checkpoint("InternVL-Chat-ViT-6B-Vicuna-7B")).name == "internvl-chat-1.0"
    for kind in ("llava", "llava_llama"):  # the hub's copies differ in this key
        folder = copy(LLAVA)
        change(folder, model_type=kind)
        assert recognise(folder).name == "llava-1.5"
        shutil.rmtree(folder)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "vision_config": {}, "text_config": {}}))
    assert recognise(tmp_path) is None  # transformers' own
    assert plan_for(tmp_path) is None


def test_a_tower_is_taken_from_where_it_is_said_or_found(copy):
    folder = copy(VILA)
    with pytest.raises(PreparationError, match=r"only its name.*--vision-tower DIR.*openai/clip-vit-large-patch14-336"):
        plan_for(folder)
    with pytest.raises(PreparationError, match=r"has no config.json"):
        plan_for(folder, vision_tower=folder.parent)
    given = plan_for(folder, vision_tower=CLIP)
    shutil.copytree(CLIP, folder / "openai" / CLIP.name)
    found = plan_for(folder)
    assert found.sources[1].shards.folder == folder / "openai" / CLIP.name
    assert checked_pieces(found)[1].keys() == checked_pieces(given)[1].keys()


def test_what_does_not_fit_is_listed_by_name(copy):
    folder = copy(VILA)
    file = folder / "model-00003-of-00003.safetensors"
    tensors = load_file(file)
    gone = sorted(name for name in tensors if "layers" in name)[:2]
    for name in gone:
        del tensors[name]
    tensors["model.extra.weight"] = torch.zeros(2)
    tensors["model.norm.weight"] = torch.zeros(7)
    save_file(tensors, file)
    with pytest.raises(PreparationError) as raised:
        build(plan_for(folder, vision_tower=CLIP))
    text = str(raised.value)
    assert "2 missing" in text
    assert all(name.replace("model.layers", "model.language_model.layers") in text for name in gone)
    assert "1 unexpected:\n  model.extra.weight" in text
    assert "model.norm.weight gives model.language_model.norm.weight the shape (7,), the config says (32,)" in text


def test_incomplete_folders_are_explained(copy):
    folder = copy(VILA)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(PreparationError, match=r"1 of 3 weight files are missing \(model-00002-of-00003.safetensors\)"):
        plan_for(folder, vision_tower=CLIP)
    (folder / "model-00002-of-00003.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    with pytest.raises(PreparationError, match="git lfs pull"):
        plan_for(folder, vision_tower=CLIP)
    whole = (checkpoint(VILA) / "model-00002-of-00003.safetensors").read_bytes()
    (folder / "model-00002-of-00003.safetensors").write_bytes(whole[:-100])
    with pytest.raises(PreparationError, match="only half downloaded"):
        plan_for(folder, vision_tower=CLIP)
    for file in folder.glob("model*"):
        file.unlink()
    with pytest.raises(PreparationError, match=r"no weights. Download"):
        plan_for(folder, vision_tower=CLIP)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "lmsys/vicuna-7b-v1.5"}')
    with pytest.raises(PreparationError, match=r"LoRA weights only. Merge them into lmsys/vicuna-7b-v1.5"):
        plan_for(folder, vision_tower=CLIP)
    (folder / "adapter_config.json").unlink()
    (folder / "mm_projector.bin").write_bytes(b"")
    with pytest.raises(PreparationError, match="projector only"):
        plan_for(folder, vision_tower=CLIP)
    (folder / "config.json").unlink()
    with pytest.raises(PreparationError, match="projector only"):
        plan_for(folder)


class Code:
    def __reduce__(self):
        return (print, ("code of a checkpoint ran",))


def test_pickles_with_code_are_refused(copy, capsys):
    folder = copy(LLAVA)
    file = folder / "pytorch_model-00002-of-00002.bin"
    torch.save({**torch.load(file, weights_only=True), "extra": Code()}, file)
    with pytest.raises(PreparationError, match="runs no code"):
        plan_for(folder, vision_tower=CLIP)
    assert capsys.readouterr().out == ""


def test_files_of_old_torch_are_read_too(copy):
    folder = copy(LLAVA)
    file = folder / "pytorch_model-00002-of-00002.bin"
    before = Shards(folder)
    torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=False)
    after = Shards(folder)
    assert after.specs == before.specs
    assert all(torch.equal(after.read(name), Shards(checkpoint(LLAVA)).read(name)) for name in after.specs)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"mm_projector_type": "linear"}, "projector is 'linear'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"model_type": "llava_mpt"}, "another decoder"),
        ({"mm_vision_tower": "google/siglip-so400m"}, "is not found|only its name|of kind"),
    ],
)
def test_other_variants_are_refused_by_name(copy, keys, reason):
    folder = copy(LLAVA)
    change(folder, **keys)
    with pytest.raises((UnsupportedModel, PreparationError), match=reason):
        plan_for(folder, vision_tower=None if "mm_vision_tower" in keys else CLIP)


def test_converting_is_deterministic_atomic_and_goes_on_where_it_stopped(tmp_path):
    whole = convert(plan_for(checkpoint(LLAVA)), tmp_path / "whole")
    target, written = tmp_path / "stopped", []

    def stop(done, total):
        written.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(plan_for(checkpoint(LLAVA)), target, stop)
    assert not target.exists()
    work = tmp_path / ".stopped.partial"
    first = sorted(work.glob("*.safetensors"))[0]
    stamp = first.stat().st_mtime_ns
    convert(plan_for(checkpoint(LLAVA)), target)
    assert not work.exists()
    assert (target / first.name).stat().st_mtime_ns == stamp  # not written again
    files = sorted(file.name for file in whole.iterdir())
    assert files == sorted(file.name for file in target.iterdir())
    assert KEY not in files
    assert all((whole / name).read_bytes() == (target / name).read_bytes() for name in files)
    with pytest.raises(PreparationError, match="exists already"):
        convert(plan_for(checkpoint(LLAVA)), target)


def test_what_another_conversion_left_is_not_used(tmp_path):
    target = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        convert(plan_for(checkpoint(VILA)), target, _stop)
    convert(plan_for(checkpoint(LLAVA)), target)
    plain = convert(plan_for(checkpoint(LLAVA)), tmp_path / "plain")
    assert all((plain / file.name).read_bytes() == file.read_bytes() for file in target.iterdir())


def _stop(done, total):
    raise KeyboardInterrupt


def test_no_more_than_half_a_file_is_written_at_once_and_one_file_is_open(tmp_path, monkeypatch):
    """That keeps a conversion below 1.2 x the largest weight file in memory (benchmarks/convert_memory.py measures)."""
    plan = plan_for(checkpoint(VILA), CLIP)
    limit, written, opened = plan.largest_shard // 2, [], []
    write, read = convert_module._write, Shards.read

    def watched(file, tensors):
        written.append([tensor.numel() * tensor.element_size() for tensor in tensors.values()])
        write(file, tensors)

    def noted(self, name):
        tensor = read(self, name)
        opened.append({shards._open[0] for source in plan.sources if (shards := source.shards)._open})
        return tensor

    monkeypatch.setattr(convert_module, "_write", watched)
    monkeypatch.setattr(Shards, "read", noted)
    convert(plan, tmp_path / "model")
    assert len(written) > 1
    assert all(sum(sizes) <= limit or len(sizes) == 1 for sizes in written)
    assert sum(map(sum, written)) == sum(
        tensor.numel() * tensor.element_size() for tensor in checked_pieces(plan)[1].values()
    )
    assert not any(source.shards._open for source in plan.sources)
    assert max(map(len, opened)) <= len(plan.sources)


def test_the_doctor_tells_without_reading_weights(copy, monkeypatch):
    monkeypatch.setattr(Shards, "read", None)
    found = diagnose(checkpoint(LLAVA))
    assert found.supported, found.why
    assert found.facts["becomes"] == "LlavaForConditionalGeneration, float16"
    assert "2 files" in found.facts["weights"]
    assert "'<image>' is id 3" in found.facts["tokenizer"]
    folder = copy(VILA)
    ill = diagnose(folder)
    assert not ill.supported
    assert "--vision-tower DIR" in ill.why
    assert not diagnose(folder.parent).supported
    assert "There is no folder" in diagnose(folder / "nowhere").why
