"""The exit table keeps what it was given, and labels follow the published criterion."""

import pytest
import torch

from lookaway.core.errors import DataError
from lookaway.core.exit_table import ExitTable, labels


def table(n=4, layers=(1, 3), seed=0):
    draw = torch.Generator().manual_seed(seed)
    return ExitTable(
        layers=layers,
        ids=tuple(f"{seed}-{i}" for i in range(n)),
        features=torch.randn(n, len(layers), 6, generator=draw).half(),
        loss=torch.rand(n, len(layers), generator=draw),
        full_loss=torch.rand(n, generator=draw),
        match=torch.rand(n, len(layers), generator=draw) > 0.5,
        full_match=torch.rand(n, generator=draw) > 0.5,
        agree=torch.rand(n, len(layers), generator=draw) > 0.5,
        target="own",
    )


def same(a, b):
    tensors = ("features", "loss", "full_loss", "match", "full_match", "agree")
    assert (a.layers, a.ids, a.target) == (b.layers, b.ids, b.target)
    assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)


def test_it_comes_back_from_disk(tmp_path):
    same(ExitTable.load(table().save(tmp_path / "deep" / "t.safetensors")), table())


def test_subset_and_concat():
    joined = ExitTable.concat([table(seed=0), table(n=2, seed=1)])
    assert len(joined) == 6
    same(joined.subset([0, 1, 2, 3]), table(seed=0))
    same(joined.subset(torch.tensor([0, 0, 0, 0, 1, 1]).bool()), table(n=2, seed=1))
    assert joined.subset([5, 0]).ids == ("1-1", "0-0")


def test_fewer_layers():
    one = table(layers=(1, 3, 5)).at_layers([5, 1])
    assert one.layers == (1, 5)
    assert torch.equal(one.loss, table(layers=(1, 3, 5)).loss[:, [0, 2]])
    with pytest.raises(DataError, match="not \\[2\\]"):
        table().at_layers([2])


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be joined"):
        ExitTable.concat([table(), table(layers=(1, 4))])
    with pytest.raises(DataError, match="no exit table to join"):
        ExitTable.concat([])
    with pytest.raises(DataError, match="There is no exit table"):
        ExitTable.load(tmp_path / "missing")
    path = table().save(tmp_path / "t")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged"):
        ExitTable.load(path)
    with pytest.raises(DataError, match="loss is"):
        ExitTable(**{**vars(table()), "loss": torch.zeros(4, 3)})


def test_labels_follow_the_criterion():
    given = ExitTable(
        layers=(1, 2, 3),
        ids=("a",),
        features=torch.zeros(1, 3, 2),
        loss=torch.tensor([[1.02, 1.04, 1.02]]),
        full_loss=torch.tensor([1.0]),
        match=torch.tensor([[False, False, False]]),
        full_match=torch.tensor([False]),
        agree=torch.tensor([[True, True, False]]),
    )
    assert labels(given).tolist() == [[True, False, False]]
    assert labels(given, absolute=0.02).tolist() == [[True, True, False]]
    assert labels(given, require_agreement=False).tolist() == [[True, False, True]]
    assert labels(given, relative=1.0).tolist() == [[False, False, False]]
