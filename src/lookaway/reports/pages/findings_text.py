"""Tables of a study -> sentences and cells. Pure functions; every number in a sentence comes from the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..collect import ReportData
from ..formatting import number, share
from ..published_curves import TAU

__all__ = ["CAUSE_HEAD", "FLOW_HEAD", "RANK_HEAD", "STOP_HEAD", "cause_rows", "cause_words", "conclusions",
           "flow_rows", "flow_words", "rank_rows", "rank_words", "stage_words", "stopping_rows",
           "stopping_words", "study_tiles"]  # fmt: skip

FLOW_HEAD = ["layer", "visual self (max)", "text on image (max)", "text self (max)", "text on image (share)",
             "text on text in front", "text on first token", "entropy on image", "entropy of text"]  # fmt: skip
CAUSE_HEAD = ["layers", "attention on image", "loss rises by", "95 % interval", "answers changed", "95 % interval"]
STOP_HEAD = ["exit before layer", "same answer", "95 % interval", "accuracy", "loss rises by", "earliest safe here"]
RANK_HEAD = ["layers", "τ, question", "95 % interval", "τ, last token", "overlap, question", "median score"]


def conclusions(data: ReportData) -> list[str]:
    """All sentences, in the order of the page."""
    makers = {"flow": flow_words, "stages": stage_words, "causes": cause_words, "stopping": stopping_words,
              "ranks": rank_words}  # fmt: skip
    return [line for name, words in makers.items() if data.findings.get(name) for line in words(data)]


def study_tiles(data: ReportData) -> list[tuple[str, str]]:
    """The numbers at the top of a page that shows a study alone."""
    found, tiles = data.findings, []
    if found.get("flow"):
        cross = found["flow"]["all"]["mean"]["cross"]["mean"]
        tiles.append((share(_mean(cross), 0), "of the question's attention goes to the image"))
    if found.get("stopping"):
        whole = found["stopping"]["all"]
        depth = whole["layers"][-1]
        tiles.append(
            (f"{_quantile(whole['earliest'], 0.5)} of {depth}", "layers need the image for half of the questions")
        )
        tiles.append((f"{_enough(whole)} of {depth}", "layers, the same for all, keep 95 % of the answers"))
    if found.get("causes") and found["causes"]["agreement"]["mass"][0] is not None:
        tiles.append(
            (number(found["causes"]["agreement"]["mass"][0], 2), "rank correlation of attention and its effect")
        )
    return tiles


def flow_words(data: ReportData) -> list[str]:
    own = data.findings["flow"]["all"]["mean"]
    cross, before = own["cross"]["mean"], own["text_to_system"]["mean"]
    lines = [
        f"The question gives {share(_mean(cross))} of its attention to the image, averaged over layers: most in layer "
        f"{_highest(cross)} ({share(max(cross))}), least in layer {_lowest(cross)} ({share(min(cross))})."
    ]
    lines.append(
        f"{share(_mean(before))} goes to text before the image, which published curves leave out, "
        f"{share(_mean(own['text_to_first']['mean']))} to the first token alone."
    )
    return lines


def flow_rows(data: ReportData) -> list[list[str]]:
    most, mean = (data.findings["flow"]["all"][merge] for merge in ("max", "mean"))
    entropy = (data.findings.get("entropy") or {}).get("full")
    columns = [[number(v, 3) for v in most[name]["mean"]] for name in ("visual_self", "cross", "text_self")]
    columns += [[share(v) for v in mean[name]["mean"]] for name in ("cross", "text_to_system", "text_to_first")]
    for name in ("cross", "text_self"):
        columns.append([number(v, 2) for v in entropy[name]["mean"]] if entropy else ["–"] * len(columns[0]))
    return [[str(layer), *cells] for layer, cells in enumerate(zip(*columns, strict=True))]


def stage_words(data: ReportData) -> list[str]:
    found = data.findings.get("stages")
    if not found:
        return ["Too few layers for stages."]
    (first, second), (low, high) = found["changes"], (found["low"], found["high"])
    cross = found["means"]["cross"]
    lines = [
        f"Cut into three where the curves change most, stages begin at layers 0, {first} (95 % interval {low[0]} to "
        f"{high[0]}) and {second} ({low[1]} to {high[1]})."
    ]
    parts = found["parts_share"].get(str(found["parts"]), 0.0)
    lines.append(
        f"The information criterion chooses {_stages(found['parts'])} (in {share(parts, 0)} of bootstrap draws)"
        f"{'; three are not what these curves show' if found['parts'] != 3 else ''}."
    )
    seen = "is there" if found["pattern"] else "is not there"
    lines.append(
        f"The published pattern (text attends to the image early, then less, then more again) {seen}: the mean is "
        f"{', '.join(number(level, 2) for level in cross)} in the three stages, and the pattern holds in "
        f"{share(found['pattern_share'], 0)} of draws."
    )
    return lines


def _stages(count: int) -> str:
    return "1 stage" if count == 1 else f"{count} stages"


def cause_words(data: ReportData) -> list[str]:
    found = data.findings["causes"]
    effect, low, high = found["effect"]
    most = _highest(effect)
    lines = [
        f"Blocking attention to the image in {_window(found, most)} has the largest effect: the loss of the model's "
        f"own answer rises by {number(effect[most], 2)} (95 % interval {number(low[most], 2)} to "
        f"{number(high[most], 2)}) and "
        f"{share(found['changed'][0][most], 0)} of the answers change."
    ]
    for name, words in (("mass", "Attention mass"), ("saliency", "Gradient saliency")):
        value, lowest, highest = found["agreement"][name]
        if value is None:
            lines.append(f"{words} and the effect of knockouts cannot be compared: one is the same in all windows.")
        else:
            lines.append(
                f"{words} and the effect of knockouts rank the windows with a correlation of {number(value, 2)} "
                f"(95 % interval {number(lowest, 2)} to {number(highest, 2)})."
            )
    lines.append(f"{share(found['distance'], 0)} of the attention mass would have to move for the two to agree.")
    over, under = (_around(found, found[name]) for name in ("overrated", "underrated"))
    lines.append(f"More attention than effect: {over}. Less attention than effect: {under}.")
    return lines


def cause_rows(data: ReportData) -> list[list[str]]:
    found = data.findings["causes"]
    rows = []
    for place, (first, stop) in enumerate(found["windows"]):
        (effect, low, high), (changed, least, most) = (
            [part[place] for part in found[n]] for n in ("effect", "changed")
        )
        rows.append(
            [_span(first, stop), share(found["mass"][0][place]), number(effect, 3),
             f"{number(low, 3)} to {number(high, 3)}", share(changed), f"{share(least)} to {share(most)}"]
        )  # fmt: skip
    return rows


def stopping_words(data: ReportData) -> list[str]:
    found = data.findings["stopping"]["all"]
    depth, enough = found["layers"][-1], _enough(found)
    words = (
        f"From an exit before layer {enough} of {depth} on, at least 95 % of the answers are the full model's."
        if enough < depth
        else "No fixed exit keeps 95 % of the answers."
    )
    counts = found["earliest"]
    lines = [
        words,
        f"Half of the questions could do without the image from layer {_quantile(counts, 0.5)} on, nine in ten from "
        f"layer {_quantile(counts, 0.9)} on (earliest safe exits, which only an oracle knows).",
    ]
    if found["accuracy"] is None:
        lines.append("The data has no ground truth for every question, so accuracy is not shown, only agreement.")
    return lines


def stopping_rows(data: ReportData) -> list[list[str]]:
    found = data.findings["stopping"]["all"]
    rows = []
    for place, layer in enumerate(found["layers"]):
        mean, low, high = (part[place] for part in found["agreement"])
        accuracy = share(found["accuracy"][0][place]) if found["accuracy"] else "–"
        name = "never" if place == len(found["layers"]) - 1 else str(layer)
        rows.append([name, share(mean), f"{share(low)} to {share(high)}", accuracy, number(found["loss"][place], 3),
                     str(found["earliest"][layer])])  # fmt: skip
    return rows


def rank_words(data: ReportData) -> list[str]:
    found = data.findings["ranks"]["text"]
    tau = [value for value in found["next_tau"][0] if value is not None]
    overlap = found["next_overlap"][0]
    if not tau:
        return ["Every layer scores all visual tokens the same, so there is no rank to compare."]
    steady = sum(value >= 0.7 for value in tau)
    low, high = number(min(tau), 2), number(max(tau), 2)
    later = [value for values in TAU.values() for value in values[1:]]
    theirs = f"{number(min(later), 2)} to {number(max(later), 2)}"
    return [
        f"Neighbouring layers rank the visual tokens with a Kendall τ of {low} to {high}; {steady} of {len(tau)} pairs "
        f"reach the 0.7 that G-Search reports for all layers but the first (read off its figures: {theirs} after the "
        "first, on two models with 32 layers).",
        f"Of the highest {share(data.findings['ranks']['top_share'], 0)} of the tokens a layer shares "
        f"{share(_mean(overlap), 0)} with the next; the others break the assumption that a token ranked low may leave "
        "for good.",
    ]


def rank_rows(data: ReportData) -> list[list[str]]:
    text, last = (data.findings["ranks"][query] for query in ("text", "last"))
    rows = []
    for layer, (mean, low, high) in enumerate(zip(*text["next_tau"], strict=True)):
        rows.append([f"{layer} and {layer + 1}", number(mean, 3), f"{number(low, 2)} to {number(high, 2)}",
                     number(last["next_tau"][0][layer], 3), share(text["next_overlap"][0][layer]),
                     f"{text['median'][layer]:.2g}"])  # fmt: skip
    return rows


def _window(found: dict[str, Any], place: int) -> str:
    first, stop = found["windows"][place]
    return _span(first, stop, "layers")


def _span(first: int, stop: int, words: str = "") -> str:
    """Layers first .. stop - 1: '3', '3–7'."""
    name = str(first) if stop - first == 1 else f"{first}–{stop - 1}"
    return f"{words if stop - first > 1 else words.rstrip('s')} {name}".strip()


def _around(found: dict[str, Any], places: Sequence[int]) -> str:
    """Windows in words, by their middles: 'windows around layers 4–8 and 16'."""
    runs: list[list[int]] = []
    for middle in ((sum(found["windows"][place]) - 1) // 2 for place in places):
        if runs and middle <= runs[-1][1] + 1:
            runs[-1][1] = middle
        else:
            runs.append([middle, middle])
    names = [_span(first, last + 1) for first, last in runs]
    if not names:
        return "nowhere beyond chance"
    if len(names) == 1 and "–" not in names[0]:
        return f"the window around layer {names[0]}"
    return "windows around layers " + " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _enough(found: dict[str, Any], part: float = 0.95) -> int:
    """The earliest fixed exit from which on this share of the answers stays; the depth where only 'never' does."""
    agreement = found["agreement"][0]
    return next(int(layer) for place, layer in enumerate(found["layers"]) if min(agreement[place:]) >= part)


def _quantile(counts: Sequence[int], part: float) -> int:
    """The smallest layer by which this part of the samples is counted."""
    total, seen = sum(counts), 0
    for layer, count in enumerate(counts):
        seen += count
        if seen >= part * total:
            return layer
    return len(counts) - 1


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _highest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _lowest(values: Sequence[float]) -> int:
    return min(range(len(values)), key=values.__getitem__)
