"""The blocks of a cache that leaves tokens out, against a cache that is written token by token. Needs no vLLM."""

import random
from hashlib import sha256

import pytest

from lookaway.serving.vllm.compact_blocks import CompactBlocks


def drawn(seed, tokens=120):
    """Ranges of visual tokens in a prompt of so many tokens."""
    draw = random.Random(seed)
    edges = sorted(draw.sample(range(tokens), 2 * draw.randint(0, 3)))
    return list(zip(edges[::2], edges[1::2], strict=True))


def hashes(prompt, size):
    return [sha256(repr(prompt[:end]).encode()).digest() for end in range(size, len(prompt) + 1, size)]


class Written:
    """All blocks of one request, with the tokens in them."""

    def __init__(self, prompt, ranges, size):
        self.prompt, self.layout = prompt, CompactBlocks(ranges, size)
        held = [i for i in range(len(prompt)) if not any(start <= i < stop for start, stop in ranges)]
        self.blocks = [held[i : i + size] for i in range(0, len(held), size)]
        self.held = held

    def given(self):
        """Key -> (block as it was when the key was given, its number)."""
        size = self.layout.size
        for end, digest in zip(range(size, len(self.prompt) + 1, size), hashes(self.prompt, size), strict=False):
            for number in self.layout.written(end):
                yield self.layout.key(digest, end, number), [i for i in self.blocks[number] if i < end], number


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("size", [1, 4, 16])
def test_all_that_is_needed_was_written_and_holds_the_prompts_tokens(seed, size):
    ranges = drawn(seed)
    request = Written(list(range(120)), ranges, size)
    cache = {key: (tokens, number) for key, tokens, number in request.given()}
    digests = hashes(request.prompt, size)
    for hit in range(size, 121, size):
        found, held = [], request.layout.held(hit)
        for number in range(-(-held // size)):
            end = request.layout.end(min((number + 1) * size, held))
            assert end <= hit
            tokens, at = cache[request.layout.key(digests[end // size - 1], end, number)]
            assert at == number
            found += tokens
        expected = [i for i in request.held if i < hit]
        assert found[: len(expected)] == expected
        assert held == len(expected)
        assert len(found) - len(expected) < size or not expected


@pytest.mark.parametrize("seed", range(20))
def test_two_layouts_share_keys_only_before_the_first_token_that_is_left_out(seed):
    ranges = drawn(seed + 1)
    prompt = list(range(120))
    compact = {key: tokens for key, tokens, _ in Written(prompt, ranges, 8).given()}
    whole = {key: tokens for key, tokens, _ in Written(prompt, [], 8).given()}
    first = min((start for start, _ in ranges), default=120)
    for key in compact.keys() & whole.keys():
        assert compact[key] == whole[key]
        assert all(i < first for i in whole[key])
    assert len(compact.keys() & whole.keys()) == first // 8


def test_prompts_that_differ_share_no_key_behind_the_difference():
    ranges = [(20, 52)]
    one = Written([0] * 20 + [1] * 32 + [2] * 40, ranges, 16)
    other = Written([0] * 20 + [9] * 32 + [2] * 40, ranges, 16)  # the text behind the other picture has other states
    assert {key for key, _, _ in one.given()} & {key for key, _, _ in other.given()} == {next(iter(one.given()))[0]}
