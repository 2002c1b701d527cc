"""README's table of results, from the committed records: counts, and exact (Clopper-Pearson) 95 % intervals.

    python benchmarks/readme_table.py           # prints the table
    python benchmarks/readme_table.py --write   # puts it between the marks in README.md, and draws docs/board.html

No model runs. All rows of one model are about the same questions, one an image: those that its `lookaway fit` was shown
on (`benchmarks/results/fit-*`: records.jsonl, held-out.jsonl), asked again by `python benchmarks/board.py --run`.
"""

from __future__ import annotations

import argparse
import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from lookaway.core.files import write_text
from lookaway.core.record import read_records
from lookaway.reports.policy_words import policy_words

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARKS = re.compile(r"(<!-- measured: (fit) -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = ("model", "policy", "decoder prefill FLOPs", "correct answers (95 % interval)", "same answer (95 % interval)")


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def share(successes: int, trials: int) -> str:
    """'159 of 171: 93.0 % (88.1–96.3 %)'."""
    low, high = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    return f"{successes} of {trials}: {percent(successes / trials)} ({100 * low:.1f}–{percent(high)})"


def questions(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sample records of questions with an image."""
    return [r for r in records if r["kind"] == "sample" and r["visual_tokens"] and r["visual_tokens"][0]]


def row(model: str, policy: str, samples: Sequence[dict[str, Any]]) -> list[str]:
    spent = sum(r["flops"] for r in samples) / sum(r["full_flops"] for r in samples)
    right, same = (sum(r[key] for r in samples) for key in ("right_with", "agree"))
    return [model, policy, percent(spent), share(right, len(samples)), share(same, len(samples))]


BOARD = {"exit-gates": "**exit gates**", "fastv-then-gates": "**FastV (half of the tokens), then exit gates**",
         "fixed-exit": "fixed exit before layer 20"}  # fmt: skip


def board_rows(results: Path, header: dict[str, Any]) -> list[list[str]]:
    """BOARD's policies on the questions of the run with this header, where `board.py --run` has answered them."""
    found = []
    for name, words in BOARD.items():
        path = results / f"board-{header['model'].removeprefix('lookaway-')}" / f"{name}.jsonl"
        if not path.exists():
            continue
        run, summary = read_records(path)
        if run["provenance"]["samples"] != header["provenance"]["samples"]:
            raise SystemExit(f"{path} is about other questions than the fit: python benchmarks/board.py --run MODEL")
        (all_of_them,) = (r for r in summary["rows"] if r["family"] == "all")
        count = all_of_them["samples"]
        if all_of_them["scored"] != count:
            raise SystemExit(f"{path}: {count - all_of_them['scored']} of {count} questions have no answer.")
        right, same = (round(s * count) for s in (all_of_them["accuracy_with"], all_of_them["agreement"][0]))
        spent = percent(all_of_them["flops_share"])
        found.append([f"{header['model']}, {header['data']}", words, spent, share(right, count), share(same, count)])
    return found


def fit_rows(folder: Path) -> list[list[str]]:
    """One fit's policy and what stands beside it, all on the same held-out questions of that fit."""
    (found,) = (r for r in read_records(folder / "records.jsonl") if r["kind"] == "fit")
    records = list(read_records(folder / "held-out.jsonl"))
    header = next(r for r in records if r["kind"] == "run")
    model = f"{header['model']}, {header['data']}"
    names = list(dict.fromkeys(r["name"] for r in records if r["kind"] == "beside"))
    samples = {name: questions([r for r in records if r.get("variant") == name]) for name in names}
    if len({tuple(r["id"] for r in own) for own in samples.values()}) != 1:
        raise SystemExit(f"{folder}: the methods answered different questions. Run its fit to the end.")
    unpruned = [model, "none", "100 %", share(sum(r["right_without"] for r in samples[names[0]]),
                                              len(samples[names[0]])), ""]  # fmt: skip
    shown = found["certificate"]
    certified = f"{policy_words(found['policy'])} (certified: at most {shown['bound']:.2%} change)".replace("%)", " %)")
    called = {names[0]: f"**found by `lookaway fit`**: {certified}".replace("% change", " % change")}
    own_row, *others = (row(model, called.get(name, name), own) for name, own in samples.items())
    return [unpruned, own_row, *board_rows(folder.parent, header), *others]


def table(rows: Sequence[Sequence[str]]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def tables(results: Path = RESULTS) -> dict[str, str]:
    """Mark in README -> the table between it and the next end; '' where no fit is committed yet."""
    fits = [fit_rows(folder) for folder in sorted(results.glob("fit-*")) if (folder / "held-out.jsonl").exists()]
    return {"fit": table([line for found in fits for line in found]) if fits else ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write it into README.md")
    options = parser.parse_args()
    found = tables()
    print(*found.values(), sep="\n")
    if options.write:
        page = ROOT / "README.md"
        runpy.run_path(str(Path(__file__).with_name("board.py")))["draw"]()
        write_text(page, MARKS.sub(lambda m: m[1] + found[m[2]] + m[3], page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
