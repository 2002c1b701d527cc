"""Where the tokens are: the three masks partition every batch, whatever is dropped."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lookaway.core.errors import DataError
from lookaway.core.layout import ImageSpan, TokenLayout


def masks(*rows):
    """'..vvvt' -> visual and attention masks; '.' pads, 'v' is visual, 't' text."""
    visual = torch.tensor([[c == "v" for c in row] for row in rows])
    return visual, torch.tensor([[int(c != ".") for c in row] for row in rows])


def layout(*rows, grid=None):
    return TokenLayout.from_masks(*masks(*rows), grid=grid)


ROWS = st.integers(1, 12).flatmap(lambda n: st.lists(st.text("vt.", min_size=n, max_size=n), min_size=1, max_size=4))


@settings(deadline=None)
@given(ROWS, st.data())
def test_masks_partition_before_and_after_a_gather(rows, data):
    whole = layout(*rows)
    width = len(rows[0])
    picks = [data.draw(st.sets(st.integers(0, width - 1), min_size=1)) for _ in rows]
    longest = max(map(len, picks))
    index = torch.tensor([[0] * (longest - len(p)) + sorted(p) for p in picks])
    valid = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p in picks])
    for part in (whole, whole.gather(index, valid)):
        assert bool((part.visual.int() + part.text.int() + part.padding.int() == 1).all())
    kept = [[row[i] for i in sorted(p)] for row, p in zip(rows, picks, strict=True)]
    assert whole.gather(index, valid).visual_counts.tolist() == [row.count("v") for row in kept]
    assert whole.counts.tolist() == [width - row.count(".") for row in rows]
    assert whole.gather(index, valid).spans == whole.spans
    for row, spans in zip(rows, whole.spans, strict=True):
        assert sum(span.length for span in spans) == row.count("v")
        assert all(row[s.start : s.start + s.length] == "v" * s.length for s in spans)


def test_images_that_touch_are_told_apart_by_their_grid():
    assert layout("tvvvvvvt").spans == ((ImageSpan(1, 6),),)
    assert layout("tvvvvvvt", grid=(1, 3)).spans == ((ImageSpan(1, 3, (1, 3)), ImageSpan(4, 3, (1, 3))),)
    assert layout("tvvvvt", grid=(1, 3)).spans == ((ImageSpan(1, 4),),)  # no whole number of images: no guess


def test_the_question_is_what_follows_the_image():
    found = layout("..tvvtt", "ttttttt", ".vvtvtt").question_mask()
    assert found.int().tolist() == [[0, 0, 0, 0, 0, 1, 1], [1] * 7, [0, 0, 0, 1, 0, 1, 1]]


def test_without_an_attention_mask_nothing_is_padding():
    assert not TokenLayout.from_masks(torch.tensor([[True, False]])).padding.any()


def test_what_does_not_fit_is_refused():
    visual, attention = masks("vvt")
    with pytest.raises(DataError, match=r"shape \(1, 2\), the tokens \(1, 3\)"):
        TokenLayout.from_masks(visual, attention[:, :2])
    with pytest.raises(DataError, match="padding must not cover the image"):
        TokenLayout.from_masks(visual, torch.tensor([[0, 1, 1]]))
