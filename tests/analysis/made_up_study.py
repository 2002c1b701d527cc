"""Study records of a made-up model, for tests and for looking at the page; never results."""

import base64

import numpy as np

from lookaway.analysis.knockout import sliding_windows
from lookaway.analysis.rank_stability import kendall_matrix, overlap_matrix

DEPTH, TOKENS = 12, 9
WINDOWS = sliding_windows(DEPTH, 3)
FLOWS = ("cross", "visual_self", "text_self", "text_to_system", "text_to_first")


def made_up(number, seed=0, family="a", depth=DEPTH):
    """A study record whose knockout effect is largest where attention is lowest."""
    rng = np.random.default_rng(seed + number)
    cross = np.linspace(0.8, 0.1, depth) + 0.01 * rng.random(depth)
    flow = {name: (cross + 0.1 * place).tolist() for place, name in enumerate(FLOWS)}
    windows = sliding_windows(depth, 3)
    effect = np.array([0.05 + first / depth for first, _ in windows]) + 0.01 * rng.random(len(windows))
    scores = rng.random((depth, TOKENS))
    exits = list(range(1, depth))
    own = {"tau": kendall_matrix(scores).tolist(), "overlap": overlap_matrix(scores, 3).tolist(),
           "median": np.median(scores, 1).tolist()}  # fmt: skip
    entropy = {"cross": rng.random(depth).tolist(), "text_self": rng.random(depth).tolist()}
    shade = (255 * scores / scores.max(1, keepdims=True)).astype(np.uint8)
    return {
        "id": str(number), "family": family, "question": f"what colour is thing {number}?", "truth": "red",
        "answer": "red", "num_layers": depth, "visual_tokens": TOKENS,
        "flow": {"max": flow, "mean": flow},
        "entropy": entropy, "entropy_after_exit": {"6": {**entropy, "cross": [0.5] * 6 + [None] * (depth - 6)}},
        "knockout": {"windows": [list(w) for w in windows], "loss": (0.3 + effect).tolist(), "full_loss": 0.3,
                     "same": [first < 5 for first, _ in windows], "right": [first < 5 for first, _ in windows],
                     "full_right": True},
        "saliency": {"reading": cross.tolist()},
        "exits": {"layers": exits, "loss": [1.0 / k for k in exits], "full_loss": 0.0,
                  "same": [k >= 4 + number % 3 for k in exits], "right": [k >= 4 for k in exits], "full_right": True},
        "ranks": {"top_share": 0.25, "last": own, "text": own},
        "looks": {"grid": [3, 3], "bytes": base64.b64encode(shade.tobytes()).decode()},
    }  # fmt: skip
