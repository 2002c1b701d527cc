"""What is counted as saved is what the trace of `la.attach` says of the same prompt."""

import numpy as np

from lookaway.anatomy.tiny import tiny
from lookaway.core.cost import DecoderShape
from lookaway.serving.vllm.metrics import saved_flops

SHAPE = DecoderShape(4, 32, 48, 4, 2, 8, 97)


def test_a_whole_prompt():
    kept = np.array([30, 30, 14, 10])
    saved = saved_flops(SHAPE, 30, 0, np.zeros(4, dtype=np.int64), 30 - kept)
    assert saved == sum(SHAPE.layer_flops(30) - SHAPE.layer_flops(int(n)) for n in kept)


def test_chunks_add_up():
    """A prompt of 30 tokens in two chunks of 20 and 10: the second one's queries look at the keys of both."""
    lost = [np.array([0, 0, 12, 12]), np.array([0, 0, 4, 4])]
    nothing = np.zeros(4, dtype=np.int64)
    first = saved_flops(SHAPE, 20, 0, nothing, lost[0])
    second = saved_flops(SHAPE, 10, 20, lost[0], lost[1])
    each, pair = SHAPE.layer_flops(1) - 4 * 32, 4 * 32
    by_hand = 2 * (16 * each + pair * (20 * 20 - 8 * 8 + 10 * 30 - 6 * (6 + 8)))
    assert first + second == by_hand


def test_the_trace_says_the_same():
    import lookaway as la

    model = tiny("llava")
    with la.attach(model.model, la.ExitAt(2)) as run:
        model.model(**model.inputs())
    cost, trace = run.trace.cost(), run.trace
    lost = np.array([trace.tokens[0][0] - layer[0] for layer in trace.tokens])
    assert (
        saved_flops(trace.shape, trace.tokens[0][0], 0, np.zeros(4, dtype=np.int64), lost)
        == cost.full_flops - cost.flops
    )
