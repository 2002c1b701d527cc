"""The exit table of a batch equals what runs with `attach` say, exit by exit, sample by sample."""

import pytest
import torch
from local_policies import Exit

from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import tiny
from lookaway.core.errors import DataError
from lookaway.core.exit_table import ExitTable
from lookaway.engine.api import attach
from lookaway.engine.replay import exit_table as module
from lookaway.engine.replay.exit_table import collect_exit_table


class Batch:
    """Questions about pictures of a tiny model: the last tokens of each row are its answer."""

    def __init__(self, inputs, images, answer_lengths):
        self.inputs = inputs
        self.samples = [type("Sample", (), {"id": f"s{i}", "images": (0,) * n})() for i, n in enumerate(images)]
        columns = torch.arange(inputs["input_ids"].shape[1])
        self.answer_mask = torch.stack([columns >= len(columns) - length for length in answer_lengths])


def mixed(model):
    batch = Batch(model.inputs("left_padded"), [1, 1, 0, 2], [3, 1, 2, 2])
    if model.family == "paligemma":
        batch.inputs["token_type_ids"][batch.answer_mask] = 1  # the answer is causal
    return batch


def shared(model):
    """Three questions about one picture and a question about none."""
    single = model.inputs("single")
    base, rows = single["input_ids"][0, :-7], []
    for question in ([20, 21, 22, 23, 24, 25], [30, 31, 32], [40, 41, 42, 43]):
        rows.append(torch.cat([base, torch.tensor(question)]))
    rows.append(torch.tensor([50, 51, 52, 53, 54]))
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    images = {name: value.repeat(3, *[1] * (value.dim() - 1)) for name, value in single.items() if name in PICTURES}
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long(), **images}
    if model.family == "llava_onevision":
        inputs["batch_num_images"] = torch.tensor([1, 1, 1, 0])
    return Batch(inputs, [1, 1, 1, 0], [3, 1, 2, 2])


PICTURES = ("pixel_values", "image_sizes")
LLAVAS = ("llava", "llava_next", "llava_onevision")


def by_hand(model, batch, layer):
    """(loss, said, wanted) a row, from a live run that exits before `layer` (None: never)."""
    with torch.no_grad(), attach(model.model, Exit(layer)) as attached:
        logits = model.model(**anatomy_of(model.model).with_positions(batch.inputs)).logits
    index, valid = attached.kept_columns()
    for row, answer in enumerate(batch.answer_mask):
        column = {int(c): slot for slot, c in enumerate(index[row]) if valid[row, slot]}
        where = answer.nonzero().flatten().tolist()
        at = logits[row, [column[c - 1] for c in where]]
        wanted = batch.inputs["input_ids"][row, where]
        yield torch.nn.functional.cross_entropy(at, wanted), at.argmax(-1), wanted


OTHERS = ("qwen3_vl", "gemma3", "smolvlm", "internvl", "paligemma")  # one of each kind


@pytest.mark.parametrize(
    ("family", "make", "share"),
    [(family, make, share) for family in LLAVAS for make in (mixed, shared) for share in (True, False)]
    + [(family, mixed, True) for family in OTHERS],
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_table_says_what_live_runs_say(family, attention, make, share):
    model = tiny(family, attn_implementation=attention)
    batch = make(model)
    table = collect_exit_table(model.model, [batch], share_images=share, dtype=torch.float32)
    assert table.layers == (1, 2, 3)
    assert table.ids == ("s0", "s1", "s2", "s3")
    full = list(by_hand(model, batch, None))
    for row, (loss, said, wanted) in enumerate(full):
        torch.testing.assert_close(table.full_loss[row], loss, atol=1e-5, rtol=1e-5)
        assert table.full_match[row] == (said == wanted).all()
    for column, layer in enumerate(table.layers):
        for row, (loss, said, wanted) in enumerate(by_hand(model, batch, layer)):
            torch.testing.assert_close(table.loss[row, column], loss, atol=1e-5, rtol=1e-5)
            assert table.match[row, column] == (said == wanted).all()
            assert table.agree[row, column] == (said == full[row][1]).all()


@pytest.mark.parametrize("family", LLAVAS)
def test_features_are_those_of_the_prompt_alone(family):
    """Answers must not leak into what a gate is trained on: cut off, the features stay the same."""
    model = tiny(family)
    batch = shared(model)
    table = collect_exit_table(model.model, [batch], layers=(1, 3), dtype=torch.float32)
    other = shared(model)
    other.inputs["input_ids"] = torch.where(other.answer_mask, 60, other.inputs["input_ids"])
    changed = collect_exit_table(model.model, [other], layers=(1, 3), dtype=torch.float32)
    plain = collect_exit_table(model.model, [batch], layers=(1, 3), dtype=torch.float32, share_images=False)
    torch.testing.assert_close(table.features, changed.features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(table.features, plain.features, atol=1e-5, rtol=1e-5)
    assert (table.loss - changed.loss).abs().max() > 1e-3


def test_a_killed_run_goes_on_and_other_weights_are_not_mixed_in(tmp_path, monkeypatch):
    model = tiny("llava")
    batches = [mixed(model), shared(model)]
    done = []
    whole = collect_exit_table(model.model, batches, cache_dir=tmp_path, progress=done.append)
    assert done == [4, 4]
    assert len(list(tmp_path.iterdir())) == 2

    def never(*args):
        raise AssertionError("a cached batch was run again")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_table", never)
        again = collect_exit_table(model.model, iter(batches), cache_dir=tmp_path)
    assert torch.equal(again.loss, whole.loss)
    other = collect_exit_table(tiny("llava", seed=1).model, batches, cache_dir=tmp_path)
    assert not torch.equal(other.loss, whole.loss)
    assert len(list(tmp_path.iterdir())) == 4
    assert isinstance(ExitTable.load(next(tmp_path.iterdir())), ExitTable)


def test_answers_are_needed():
    model = tiny("llava")
    batch = mixed(model)
    batch.answer_mask = None
    with pytest.raises(DataError, match="needs answers"):
        collect_exit_table(model.model, [batch])
    with pytest.raises(DataError, match="no exit table"):
        collect_exit_table(model.model, [])
