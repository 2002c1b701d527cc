"""Numbers from a seed leave every random state as it was, and no other device is touched."""

import pytest
import torch

from lookaway.anatomy.tiny import TINY, tiny
from lookaway.core.random_state import seeded
from lookaway.models import tiny_models
from lookaway.training.gate_training import GateOptions, train_gates


@pytest.fixture
def untouched(monkeypatch):
    """Fails where an accelerator is reseeded; checks that the CPU's state is as before."""

    def refuse(*args):
        raise AssertionError("an accelerator was reseeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    monkeypatch.setattr(torch.cuda, "manual_seed", refuse)
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


def test_the_numbers_are_those_of_the_seed(untouched):
    with seeded(3):
        found = torch.rand(5)
    assert torch.equal(found, torch.rand(5, generator=torch.Generator().manual_seed(3)))
    with pytest.raises(RuntimeError, match="size"), seeded(3):
        torch.rand(5) + torch.rand(4)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: tiny(next(iter(TINY))),
        tiny_models.tiny_vilt,
        lambda: train_gates(_table(), GateOptions(epochs=1)),
    ],
    ids=["tiny", "tiny_vilt", "gates"],
)
def test_whoever_draws_from_a_seed_touches_no_accelerator(draw, untouched):
    draw()


def _table():
    from lookaway.core.exit_table import ExitTable

    draw = torch.Generator().manual_seed(0)
    rows, layers = 12, (1, 2)
    flags = torch.rand(rows, len(layers), generator=draw) > 0.5
    return ExitTable(
        layers=layers,
        ids=tuple(map(str, range(rows))),
        features=torch.randn(rows, len(layers), 8, generator=draw),
        loss=torch.rand(rows, len(layers), generator=draw),
        full_loss=torch.rand(rows, generator=draw),
        match=flags,
        full_match=torch.ones(rows, dtype=torch.bool),
        agree=flags,
        target="answer",
    )
