"""Exit tables whose truth is known: a sample is good from a drawn layer on, and its features tell."""

import torch

from lookaway.core.exit_table import ExitTable


def table(samples=400, layers=(1, 2, 3, 4, 5, 6), hidden=8, noise=0.3, seed=0, images=None):
    """Sample n is good from a drawn layer on; feature 0 is (layer - that layer), the others are noise."""
    draw = torch.Generator().manual_seed(seed)
    first = torch.randint(0, len(layers) + 1, (samples,), generator=draw)  # index of the first good exit
    columns = torch.arange(len(layers))
    good = columns >= first[:, None]
    features = torch.randn(samples, len(layers), 2 * hidden, generator=draw)
    features[:, :, 0] = (columns - first[:, None] + 0.5) + noise * features[:, :, 0]
    features[:, :, 1] += 50  # a huge constant entry, as residual streams have
    full = torch.rand(samples, generator=draw) * 0.1 + 0.01
    return ExitTable(
        layers=tuple(layers),
        ids=tuple(f"s{i}" for i in range(samples)),
        features=features.half(),
        loss=torch.where(good, full[:, None], full[:, None] + 2.0),
        full_loss=full,
        match=good.clone(),
        full_match=torch.ones(samples, dtype=torch.bool),
        agree=good.clone(),
    )
