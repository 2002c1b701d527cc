"""Streamed text against the whole text decoded at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookaway.serving.batching.answer_text import AnswerText


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8: most characters are several tokens. It strips the space that a
    text begins with, as SentencePiece tokenizers do."""

    def decode(self, ids, skip_special_tokens=True):
        return bytes(ids).decode("utf-8", errors="replace").removeprefix(" ")


def streamed(text, stop=()):
    stream = AnswerText(Bytes(), stop)
    pieces = []
    for token in text.encode():
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    return [*pieces, stream.end()], stream


@given(st.text())
def test_the_pieces_are_the_whole_text(text):
    pieces, _ = streamed(text)
    assert "".join(pieces) == Bytes().decode(list(text.encode()))


@given(st.text("ab\u00e9 "), st.lists(st.text("ab\u00e9", min_size=1, max_size=3), min_size=1, max_size=3))
def test_nothing_behind_the_first_stop_string(text, stop):
    pieces, stream = streamed(text, stop)
    whole = Bytes().decode(list(text.encode()))
    ends = [whole.find(word) for word in stop if word in whole]
    if ends and stream.stopped:
        # The first stop string that was complete ends the answer; one that begins earlier may be longer.
        complete = min(whole.find(word) + len(word) for word in stop if word in whole)
        begins = min(whole.find(word) for word in stop if word in whole[:complete])
        assert "".join(pieces) == whole[:begins]
    else:
        assert not ends
        assert "".join(pieces) == whole


def test_half_characters_wait():
    pieces, _ = streamed("a\u00e9")
    assert pieces == ["a", "", "\u00e9", ""]


@pytest.mark.parametrize(("text", "expected"), [("xxab", "xx"), ("xxa", "xxa")])
def test_what_may_begin_a_stop_string_waits(text, expected):
    pieces, _ = streamed(text, ["ab"])
    assert "".join(pieces) == expected
    assert pieces[2] == ""
