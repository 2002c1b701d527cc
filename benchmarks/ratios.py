"""Two checks of speed that warn and never fail, cheap enough for CI: times of a shared machine are no reason to stop.

    python benchmarks/ratios.py [--shape llava-1.5-7b] [--scale 0.03] [--bound 1.05] [--repeats 7]

Attached and idle / bare should be at most the bound, and no measured decoder may be faster than the machine's limit
(if one is, the limit's model of the cost is wrong, or the rates were measured while the machine was busy).
"""

import argparse

from lookaway.evaluation.speed import SpeedRow, measure_speed
from lookaway.models.shapes.published import build_shape


def warnings_of(rows: list[SpeedRow], bound: float) -> list[str]:
    """What should worry a reader of these rows; empty where nothing should."""
    found = []
    for row in rows:
        if row.variant == "idle" and 1 / row.speedup > bound:
            found.append(f"{row.part}: attached and idle takes {1 / row.speedup:.3f} of bare, more than {bound}")
        for name, seconds, limit in (
            (row.variant, row.seconds, row.limit),
            ("no policy", row.baseline_seconds, row.baseline_limit),
        ):
            if row.part == "decoder" and limit is not None and seconds < limit:
                found.append(f"{row.part}, {name}: {1000 * seconds:.1f} ms beats the limit of {1000 * limit:.1f} ms")
    return list(dict.fromkeys(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="llava-1.5-7b")
    parser.add_argument("--scale", type=float, default=0.03)
    parser.add_argument("--bound", type=float, default=1.05)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    shaped = build_shape(options.shape, options.scale)
    rows = measure_speed(shaped.model, shaped.inputs(1, 32), exits=(2,), new_tokens=(8,), repeats=options.repeats)
    for row in rows:
        print(f"{row.part:12} {row.variant:10} {1000 * row.seconds:7.1f} ms, limit {1000 * (row.limit or 0):6.1f} ms, "
              f"{1 / row.speedup:.3f} of bare")  # fmt: skip
    for words in warnings_of(rows, options.bound):
        print(f"warning: {words}")


if __name__ == "__main__":
    main()
