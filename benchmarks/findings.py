"""docs/findings.md's tables and pictures, from the records of `lookaway analyze` on both default models.

    lookaway analyze --model lookaway-mini --limit 30 --policy GATES --out out/exit-aware
    lookaway analyze --model lookaway-mini-plain --limit 30 --policy GATES --out out/plain
    python benchmarks/findings.py --plain out/plain/records.jsonl --exit-aware out/exit-aware/records.jsonl

Tables go between the marks in docs/findings.md, pictures to docs/images, records without local paths to
benchmarks/results.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from lookaway.core.files import write_text
from lookaway.reports.collect import ReportData, collect
from lookaway.reports.figures.svg import standalone
from lookaway.reports.pages.findings import study_figure

PICTURES = {"stopping": ("plain", "exit-aware"), "causes": ("plain", "exit-aware"), "flow": ("plain",),
            "neighbours": ("plain", "exit-aware")}  # fmt: skip
"""Figure -> variants it is kept for."""
EXITS = (1, 2, 4, 6, 8, 10, 12, 15, 18, 20, 22, 24, 26, 28, 30)


def share(value: float) -> str:
    return f"{100 * value:.0f}"


def interval(parts: list[list[float]], place: int, show: Any = share) -> str:
    """'93 (86–100)'."""
    mean, low, high = (part[place] for part in parts)
    return f"{show(mean)} ({show(low)}–{show(high)})"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def two(digits: int) -> Any:
    return lambda value: f"{value:.{digits}f}"


def quantile(counts: list[int], part: float) -> int:
    seen = 0
    for layer, count in enumerate(counts):
        seen += count
        if seen >= part * sum(counts):
            return layer
    return len(counts) - 1


def exits(found: dict[str, ReportData]) -> str:
    own = {name: data.findings["stopping"]["all"] for name, data in found.items()}
    head = ["exit before layer", *(f"{name}: {what} %" for name in own for what in ("same answer", "accuracy"))]
    rows = []
    for layer in EXITS:
        cells = []
        for one in own.values():
            place = one["layers"].index(layer)
            cells += [interval(one["agreement"], place), interval(one["accuracy"], place)]
        rows.append(["never" if layer == 30 else str(layer), *cells])
    return table(head, rows)


def earliest(found: dict[str, ReportData]) -> str:
    rows = []
    for words, key, part in (
        ("earliest safe exit, half of the questions by", "earliest", 0.5),
        ("earliest safe exit, nine in ten by", "earliest", 0.9),
        ("safe from there on, half of the questions by", "settled", 0.5),
        ("safe from there on, nine in ten by", "settled", 0.9),
    ):
        rows.append([words, *(str(quantile(d.findings["stopping"]["all"][key], part)) for d in found.values())])
    return table(["layer", *found], rows)


def windows(found: dict[str, ReportData]) -> str:
    own = {name: data.findings["causes"] for name, data in found.items()}
    head = ["blocked layers"]
    for name in own:
        head += [f"{name}: attention on the image %", "rise of the loss", "answers changed %"]
    rows = []
    for place, (first, stop) in enumerate(next(iter(own.values()))["windows"]):
        if place % 3 and stop != 30:
            continue
        cells = []
        for one in own.values():
            cells += [share(one["mass"][0][place]), interval(one["effect"], place, two(2)),
                      interval(one["changed"], place)]  # fmt: skip
        rows.append([f"{first}–{stop - 1}", *cells])
    return table(head, rows)


def facts(found: dict[str, ReportData]) -> str:
    rows: list[list[str]] = []

    def row(words: str, tell: Any) -> None:
        rows.append([words, *(tell(data.findings) for data in found.values())])

    def mean(merge: str, name: str) -> Any:
        return lambda f: f"{sum(f['flow']['all'][merge][name]['mean']) / 30:.2f}"

    def correlation(name: str) -> Any:
        return lambda f: "{:.2f} ({:.2f} to {:.2f})".format(*f["causes"]["agreement"][name])

    def taus(f: Any, query: str) -> str:
        tau = f["ranks"][query]["next_tau"][0]
        steady = sum(value >= 0.7 for value in tau[1:])
        return f"{tau[0]:.2f}; {min(tau[1:]):.2f} to {max(tau[1:]):.2f}; {steady} of {len(tau) - 1}"

    row("question's attention on the image, mean of layers (heads by mean)", mean("mean", "cross"))
    row("… on the text in front of the image", mean("mean", "text_to_system"))
    row("… on the first token alone", mean("mean", "text_to_first"))
    for name, words in (("visual_self", "image on image"), ("cross", "text on image"), ("text_self", "text on text")):
        row(f"{words}, stages 1, 2, 3 (heads by maximum)",
            lambda f, name=name: ", ".join(f"{level:.2f}" for level in f["stages"]["means"][name]))  # fmt: skip
    row("change points (95 % interval)", lambda f: "; ".join(
        f"{c} ({low}–{high})" for c, low, high in
        zip(f["stages"]["changes"], f["stages"]["low"], f["stages"]["high"], strict=True)))  # fmt: skip
    row("stages the information criterion wants (share of draws)", lambda f: ", ".join(
        f"{parts}: {100 * part:.0f} %" for parts, part in f["stages"]["parts_share"].items()))  # fmt: skip
    row("draws with the published pattern", lambda f: f"{100 * f['stages']['pattern_share']:.0f} %")
    row("rank correlation of attention and knockout effect", correlation("mass"))
    row("rank correlation of gradient saliency and knockout effect", correlation("saliency"))
    row(
        "attention that would have to move to lie where the effect lies",
        lambda f: f"{100 * f['causes']['distance']:.0f} %",
    )
    row("τ of layers 0 and 1; of later neighbours; pairs ≥ 0.7 (question)", lambda f: taus(f, "text"))
    row("the same for the last token", lambda f: taus(f, "last"))
    row("overlap of the highest 25 % with the next layer's",
        lambda f: f"{100 * sum(f['ranks']['text']['next_overlap'][0]) / 29:.0f} %")  # fmt: skip
    row("τ of the first and the last layer", lambda f: f"{f['ranks']['text']['tau'][0][-1]:.2f}")
    return table(["measure", *found], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain", type=Path, required=True)
    parser.add_argument("--exit-aware", type=Path, required=True)
    options = parser.parse_args()
    here = Path(__file__).parents[1]
    files = {"plain": options.plain, "exit-aware": options.exit_aware}
    found = {name: collect(path) for name, path in files.items()}
    for figure, names in PICTURES.items():
        for name in names:
            write_text(here / f"docs/images/{figure}-{name}.svg", standalone(study_figure(found[name], figure)))
    for name, path in files.items():
        words = re.sub(r'(?<=")/[^"\s]*/(?=[^"/\s]+")', "", path.read_text())
        write_text(here / f"benchmarks/results/analyze-{name}.jsonl", words)
    page = here / "docs/findings.md"
    text = page.read_text()
    for mark, made in (("exits", exits), ("earliest", earliest), ("windows", windows), ("facts", facts)):
        pattern = rf"(<!-- measured: {mark} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda m, made=made: f"{m[1]}{made(found)}\n{m[2]}", text, flags=re.S)
        assert count == 1, mark
    write_text(page, text)


if __name__ == "__main__":
    main()
