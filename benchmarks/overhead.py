"""What an attached policy costs that removes nothing: prefill, decoding of 64 tokens, and the share of exit gates.

    python benchmarks/overhead.py [--model lookaway-mini] [--repeats 20] [--out FILE.json] [--counts-only]

Variants take turns in one process; ratios are medians of paired rounds with their quartiles. `--counts-only` counts the
calls of Python functions instead, which no other load of the machine changes. A mixed batch and the labels of a sample
have scripts of their own: `mixed_batch.py`, `labels_cost.py`. Aims: idle at most 1 % of a prefill and .5 % of decoding,
gates at most 1 % of a prefill.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

import lookaway as la
from lookaway.core.files import write_json
from lookaway.data import load_samples
from lookaway.engine.api import attach
from lookaway.evaluation.header import run_header
from lookaway.evaluation.speed import Idle
from lookaway.models.encoding import encode
from lookaway.models.loading import load_model

NEVER = 0.9999999


def python_calls(function: Callable[[], Any]) -> int:
    """Calls of Python functions that `function` makes, once what it makes the first time alone is made."""
    function()
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(seen)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lookaway-mini")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--counts-only", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/overhead.json"))
    options = parser.parse_args()

    model, processor = load_model(options.model)
    anatomy = la.anatomy(model)
    depth, width = anatomy.num_layers, anatomy.shape.hidden_size
    sample = next(sample for sample in load_samples("scenes", limit=50) if sample.images)
    inputs = encode(processor, [sample], device=model.device).inputs
    gates = la.VisualExit(la.ExitGates(width, range(anatomy.first_prunable_layer, depth), norm="layer"), NEVER)
    policies = {
        "bare": None,
        "idle": Idle(),
        "gates": gates,
        "exited": la.ExitAt(depth // 2),
    }

    def under(policy: Any, run: Callable[[], Any], measured: Callable[[Callable[[], Any]], float]) -> float:
        """`measured(run)` with the policy attached; attaching itself is not in it."""
        with torch.no_grad(), nullcontext() if policy is None else attach(model, policy):
            return measured(run)

    def seconds(run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        run()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def prefill() -> None:
        model(**inputs, use_cache=True, logits_to_keep=1)

    def decode(tokens: int) -> Callable[[], Any]:
        fixed = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
        return partial(model.generate, **inputs, **fixed)

    counts: dict[str, dict[str, float]] = {}
    for name, policy in policies.items():
        calls = {"prefill": under(policy, prefill, python_calls)}
        few, many = (under(policy, decode(tokens), python_calls) for tokens in (4, 12))
        calls["a decoded token"] = (many - few) / 8
        counts[name] = calls
        print(f"{name:22} {calls['prefill']:8} calls a prefill {calls['a decoded token']:10.1f} a decoded token")
    found: dict[str, Any] = {"python calls": counts}
    repeats = options.repeats
    if not options.counts_only:
        for what, run in {"prefill": prefill, f"{options.tokens} tokens": decode(options.tokens)}.items():
            rounds = [
                {name: under(policy, run, seconds) for name, policy in policies.items()} for _ in range(repeats + 1)
            ]
            found[what] = {}
            for name in policies:
                ratios = torch.tensor([one["bare"] / one[name] for one in rounds[1:]])  # the first warms up
                low, middle, high = ratios.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
                found[what][name] = {"speed against bare": middle, "quartiles": [low, high]}
                print(f"{what:10} {name:10} {middle:.3f} x bare ({low:.3f} to {high:.3f})")
    header = run_header(
        "overhead", model, "scenes", json.loads(json.dumps(vars(options), default=str)), 0, options.model
    )
    write_json(options.out, {"run": header, "threads": torch.get_num_threads(), **found})


if __name__ == "__main__":
    main()
