"""From samples to a table: targets, cache, and what is refused."""

import pytest
import torch
from PIL import Image

from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.errors import DataError
from lookaway.core.record import Sample
from lookaway.models.answers import own_answers
from lookaway.training import exit_labels as module
from lookaway.training.exit_labels import LabelOptions, image_names, make_exit_table


def sample(name, question, colour="red", answer=None):
    images = (Image.new("RGB", (20, 14), colour),) if colour else ()
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    return Sample(name, [{"role": "user", "content": content}], images, answer)


@pytest.fixture(scope="module")
def world():
    example = tiny("llava")
    return example.model, tiny_processor()


SAMPLES = [sample("a", "hi", answer="x"), sample("b", "what?", "blue", answer="yz"), sample("c", "text", None, "q")]
SHORT = LabelOptions(max_new_tokens=4, batch_size=2)


def test_ground_truth_where_all_have_it_and_no_image_is_left_out(world):
    table = make_exit_table(*world, SAMPLES, SHORT)
    assert table.ids == ("a", "b")
    assert table.layers == (1, 2, 3)
    assert table.target == "answer"
    assert table.features.shape == (2, 3, 64)


def test_the_models_own_answer_where_some_have_none(world):
    table = make_exit_table(*world, [SAMPLES[0], sample("n", "why?", "green")], SHORT)
    assert table.target == "own"
    said = own_answers(*world, [[SAMPLES[0]]], 4)["a"]
    assert len(said) <= 4
    free = LabelOptions(max_new_tokens=4, candidates=(2,), target="own")
    assert make_exit_table(*world, [SAMPLES[0]], free).layers == (2,)


def test_own_answers_make_the_full_run_match(world):
    """Where the greedy answer ended by itself, every one of its tokens is the full run's argmax."""
    model, processor = world
    samples = [sample(f"s{i}", "tell me " + "abcdefgh"[i], "red") for i in range(8)]
    answers = own_answers(model, processor, [samples], 12)
    table = make_exit_table(model, processor, samples, LabelOptions(target="own", max_new_tokens=12))
    for name, full in zip(table.ids, table.full_match.tolist(), strict=True):
        assert full or len(answers[name]) == 12


def test_a_second_call_runs_no_model(world, tmp_path, monkeypatch):
    options = LabelOptions(target="own", max_new_tokens=3)
    first = make_exit_table(*world, SAMPLES, options, tmp_path)
    monkeypatch.setattr(type(world[0]), "generate", lambda *a, **k: pytest.fail("generated again"))
    monkeypatch.setattr(type(world[0]), "forward", lambda *a, **k: pytest.fail("ran again"))
    again = make_exit_table(*world, SAMPLES, options, tmp_path)
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.loss, again.loss)


def test_another_picture_under_the_same_name_is_answered_anew(world, tmp_path, monkeypatch):
    """0.1 kept own answers by the picture's path: all targets were those of the pictures that had lain there."""
    model, processor = world
    asked, real = [], type(model).generate
    monkeypatch.setattr(type(model), "generate", lambda *a, **k: asked.append(1) or real(*a, **k))
    file = tmp_path / "x.png"
    one = [Sample("a", SAMPLES[0].messages, (str(file),))]
    options = LabelOptions(target="own", max_new_tokens=3)
    for colour, runs in (("red", 1), ("red", 1), ("blue", 2), ("red", 2)):
        Image.new("RGB", (20, 14), colour).save(file)
        make_exit_table(model, processor, one, options, tmp_path / "cache")
        assert len(asked) == runs, colour


@pytest.mark.parametrize("change", ["weight", "version"])
def test_labels_of_another_model_or_version_are_made_again(tmp_path, monkeypatch, change):
    """0.1 looked at some 33 values a weight, and not at its own version."""
    import lookaway as la
    from lookaway.engine.replay import exit_table as engine

    model, processor, made, real = tiny("llava").model, tiny_processor(), [], engine._table
    monkeypatch.setattr(engine, "_table", lambda *a: made.append(1) or real(*a))
    for _ in range(2):
        make_exit_table(model, processor, SAMPLES[:1], SHORT, tmp_path)
    assert len(made) == 1
    if change == "version":
        monkeypatch.setattr(la, "__version__", "9.9")
    else:
        weight = model.model.language_model.layers[2].mlp.down_proj.weight
        with torch.no_grad():
            weight.view(-1)[weight.numel() // 2 + 1] += 0.5
    make_exit_table(model, processor, SAMPLES[:1], SHORT, tmp_path)
    assert len(made) == 2


def test_a_cache_line_cut_by_a_kill_is_made_again(world, tmp_path):
    own_answers(*world, [SAMPLES[:1], SAMPLES[1:2]], 3, tmp_path / "own.jsonl")
    file = tmp_path / "own.jsonl"
    file.write_text(file.read_text()[:-20])
    assert set(own_answers(*world, [SAMPLES[:1], SAMPLES[1:2]], 3, tmp_path / "own.jsonl")) == {"a", "b"}
    assert len(file.read_text().splitlines()) == 2


def test_images_are_told_apart_by_what_they_show(tmp_path):
    for name, colour in (("x", "red"), ("copy", "red"), ("y", "blue")):
        Image.new("RGB", (9, 9), colour).save(tmp_path / f"{name}.png")
    files = [Sample(name, [], (str(tmp_path / f"{name}.png"),)) for name in ("x", "copy", "y")]
    names = image_names([*SAMPLES, sample("d", "again", "red"), *files])
    assert names["a"] == names["d"] != names["b"]
    assert names["c"] == "c"
    assert names["x"] == names["copy"] != names["y"]
    with pytest.raises(DataError, match=r"gone\.png' cannot be read"):
        image_names([Sample("e", [], ("gone.png",))])


def test_bad_input(world):
    with pytest.raises(DataError, match="No sample has an image"):
        make_exit_table(*world, SAMPLES[2:])
    with pytest.raises(DataError, match=r"1 samples have no answer.*--target own"):
        make_exit_table(*world, [sample("n", "?")], LabelOptions(target="answer"))
    with pytest.raises(DataError, match="Two samples have the id 'a'"):
        make_exit_table(*world, [SAMPLES[0], SAMPLES[0]])


def test_the_module_says_what_it_makes():
    assert "free-running" in module.__doc__


def test_float32_features_are_those_that_a_live_gate_reads(world, tmp_path):
    """A bound must be computed on what the saved gates will see; float16 rounds it."""
    import lookaway as la
    from lookaway.core.features import text_features
    from lookaway.models.encoding import encode

    model, processor = world
    options = LabelOptions(max_new_tokens=4, batch_size=1, target="own")
    exact = LabelOptions(**{**vars(options), "features": "float32"})
    rounded, table = (make_exit_table(model, processor, SAMPLES[:2], o, tmp_path) for o in (options, exact))
    assert (rounded.features.dtype, table.features.dtype) == (torch.float16, torch.float32)
    assert torch.equal(table.features.half(), rounded.features)

    class Reader(la.Policy):
        name = "reader"

        def layers(self, num_layers, first_prunable):
            return table.layers

        def decide(self, view):
            seen.append(text_features(view.hidden, view.layout))
            return la.Decision()

    for row, one in enumerate(SAMPLES[:2]):
        seen: list[torch.Tensor] = []
        with torch.no_grad(), la.attach(model, Reader()):
            model(**encode(processor, [one], model.device).inputs)
        live = torch.cat(seen)
        assert torch.allclose(live, table.features[row], atol=1e-5)
        assert not torch.equal(live.half().float(), live)  # there is something to round
