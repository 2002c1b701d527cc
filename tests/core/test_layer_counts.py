"""One sentence a row says what was processed, for every kind of policy."""

import pytest

from lookaway.core.layer_counts import processed


@pytest.mark.parametrize(("counts", "words"), [
    ([196] * 30, "processed all 196 visual tokens in all 30 layers"),
    ([196] * 2 + [68] * 28, "processed 68 of 196 visual tokens from layer 2 on"),
    ([196] * 2 + [98] * 19 + [0] * 9, "processed 98 of 196 visual tokens from layer 2 on, none from layer 21 on"),
    ([196] * 12 + [0] * 18, "processed all 196 visual tokens in layers 0 to 11, none from layer 12 on"),
    ([196] + [0] * 29, "processed all 196 visual tokens in layer 0, none from layer 1 on"),
    ([49] * 30, "processed 49 of 196 visual tokens in all 30 layers"),
    ([49] * 8 + [0] * 22, "processed 49 of 196 visual tokens from layer 0 on, none from layer 8 on"),
    ([0] * 30, "processed none of 196 visual tokens"),
    ([196] * 8 + [98] * 8 + [49] * 8 + [24] * 6,
     "processed 98 of 196 visual tokens from layer 8 on, 49 from layer 16 on, 24 from layer 24 on"),
    ([196, 150, 100, 50, 10], "processed 101 of 196 visual tokens a layer on average, from 196 in layer 0 to 10 in "
     "layer 4"),
])  # fmt: skip
def test_words_of_each_kind(counts, words):
    assert processed(counts, 196) == words


def test_a_prompt_without_an_image_has_none():
    assert processed([0, 0], 0) == "no visual tokens in the prompt"
