"""Numbers -> the words and cells of the page. Pure functions."""

from __future__ import annotations

from typing import Any

from ..core.layer_counts import processed
from .collect import ReportData, saved_work, shows_exits, visual_tokens_of_prompt
from .published_curves import SCHEDULE, half_gone

__all__ = [
    "baseline_rows",
    "comparison_rows",
    "equal_cost_rows",
    "guarantee_text",
    "hard_words",
    "sample_cards",
    "search_words",
    "summary_table",
    "tiles",
]

NAMES = {"policy": "this policy", "best_fixed": "best fixed exit at this cost*", "random": "random exit, same mean",
         "oracle": "oracle (earliest safe exit)", "full": "all visual tokens in all layers"}  # fmt: skip


def share(value: float | None, digits: int = 1) -> str:
    """0.4567 -> '45.7 %'; None -> '–'."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def tiles(data: ReportData) -> list[tuple[str, str]]:
    """The four numbers at the top, of the first variant."""
    if not data.summaries:
        return []
    variant, rows = next(iter(data.summaries.items()))
    row = rows[0]
    tokens = f"of {row['full_visual_tokens']:.0f} visual tokens processed, in the average layer ({variant})"
    found = [(f"{row['visual_tokens']:.0f}", tokens), (share(1 - row["flops_share"], 0), "fewer prefill FLOPs"),
             (share(1 - row["kv_share"], 0), "smaller KV cache after prefill"),
             (share(row["agreement"][0]), f"same answer as without, of {row['samples']} questions")]  # fmt: skip
    if row["retention"] is not None:
        of = f", of {scored} with an answer" if (scored := scored_samples(row)) < row["samples"] else ""
        words = f"of the accuracy kept ({share(row['accuracy_without'])} without{of})"
        found.append((share(row["retention"][0]), words))
    speed = [t for t in data.timings if t["variant"] == "policy" and t["part"] == "decoder"]
    if speed and saved_work(speed[0]):  # of a sample whose tokens all stay it says nothing
        found.append((f"{speed[0]['speedup']:.2f} ×", "measured prefill speed-up on the timed sample"))
    return found


def summary_table(data: ReportData, variant: str) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of the table by family; exit columns only where the policy can exit."""
    rows = data.summaries[variant]
    columns = {
        "family": [row["family"] for row in rows],
        "n": [str(row["samples"]) for row in rows],
        "with an answer": [str(scored_samples(row)) for row in rows],
        "accuracy without": [share(row["accuracy_without"]) for row in rows],
        "accuracy with": [share(row["accuracy_with"]) for row in rows],
        "retention (95 %)": [_interval(row["retention"]) for row in rows],
        "same answer": [share(row["agreement"][0]) for row in rows],
        "mean exit": [number(row["mean_exit"]) for row in rows],
        "never exits": [share(row["never_exits"], 0) for row in rows],
        "visual tokens per layer": [f"{row['visual_tokens']:.0f} of {row['full_visual_tokens']:.0f}" for row in rows],
        "FLOPs": [share(row["flops_share"]) for row in rows],
        "FastV formula": [share(row["fastv_share"]) for row in rows],
        "KV bytes": [share(row["kv_share"]) for row in rows],
    }
    if not any(map(scored_samples, rows)):
        left_out = {"with an answer", "accuracy without", "accuracy with", "retention (95 %)"}
    else:
        left_out = set() if any(scored_samples(row) < row["samples"] for row in rows) else {"with an answer"}
    left_out |= set() if shows_exits(data, variant) else {"mean exit", "never exits"}
    names = [name for name in columns if name not in left_out]
    return names, [list(cells) for cells in zip(*(columns[name] for name in names), strict=True)]


def baseline_rows(data: ReportData) -> list[list[str]]:
    """What stands beside the policy: the policy first, then its baselines, the most faithful on top."""
    own = [(variant, rows[0], False) for variant, rows in data.summaries.items()]
    others = [(name, found["rows"][0], found["own_cost"]) for name, found in data.baselines.items()]
    others.sort(key=lambda row: -row[1]["agreement"][0])
    return [
        [f"{name} (at its own cost)" if own_cost else name, share(row["flops_share"]), share(row["kv_share"]),
         share(row["accuracy_with"]), _interval(row["retention"]), _interval(row["agreement"])]
        for name, row, own_cost in [*own, *others]
    ]  # fmt: skip


def hard_words(data: ReportData) -> list[str]:
    """What the policy keeps of the questions that a baseline cannot answer, a sentence each."""
    return [
        f"Of the {found['questions']} questions that the full model answers and {found['beside']} does not, "
        f"{found['variant']} keeps {_interval(found['retention'])} of the score."
        for found in data.hard.values()
    ]


def scored_samples(row: dict[str, Any]) -> int:
    """Samples of a summary row that have an answer; in records of 0.1 all have one or none."""
    return int(row.get("scored", 0 if row["accuracy_without"] is None else row["samples"]))


def _interval(found: list[float] | None) -> str:
    """[0.99, 0.97, 1.0] -> '99.0 % (97.0 to 100.0)'."""
    return (
        "–"
        if found is None or found[0] != found[0]
        else f"{share(found[0])} ({number(100 * found[1])} to {number(100 * found[2])})"
    )


def comparison_rows(found: dict[str, Any]) -> tuple[str, list[list[str]]]:
    """What the policy loses beside what others lose at the same cost: a sentence and the cells."""
    full = found["full"]["accuracy"]
    lost, fixed = (_lost(full, found[name]["accuracy"]) for name in ("policy", "best_fixed"))
    words = f"At {share(found['policy']['flops_share'])} of the prefill FLOPs the policy loses {lost} points "
    words += (
        f"of accuracy, the best fixed exit {fixed}. (*Choosing between two fixed exits at random is allowed, which "
    )
    words += "is better than any single layer.)"
    rows = [[NAMES[name], share(o["flops_share"]), number(o["mean_exit"]), share(o["accuracy"]),
             _lost(full, o["accuracy"]), share(o["agreement"])]
            for name, o in ((name, found[name]) for name in NAMES)]  # fmt: skip
    return words, rows


def _lost(full: float, accuracy: float) -> str:
    """Points of accuracy lost; never '-0.0'."""
    return f"{round(100 * (full - accuracy), 1) + 0.0:.1f}"


def equal_cost_rows(data: ReportData) -> list[list[str]]:
    """Cells of the table at equal cost: budget by budget, the most accurate first; the full model on top."""
    order = sorted(data.equal_costs, key=lambda row: (row["method"] != "full", row["budget"], -row["accuracy"][0]))
    return [
        [
            row["method"],
            "–" if row["method"] == "full" else share(row["budget"], 0),
            share(row["flops_share"]),
            _interval(row["accuracy"]),
            _interval(row["retention"]),
            share(row["agreement"][0]),
            f"{row['visual_tokens']:.1f} of {row['full_visual_tokens']:.0f}",
            f"{row['kv_bytes'] / 2**20:.2f} MiB",
            str(row["trials"]) if row["trials"] else "–",
            "–" if row["p_random"] is None else f"{row['p_random']:.3f}",
        ]
        for row in order
    ]


def guarantee_text(found: dict[str, Any]) -> str:
    """The calibration's guarantee, or why there is none."""
    sure, most, count = share(1 - found["delta"], 0), share(found["epsilon"]), found["samples"]
    if found["threshold"] is None:
        words = f"No threshold guarantees that at most {most} of the answers change, with confidence {sure} on "
        return words + f"{count} calibration samples: the policy never exits."
    words = f"With confidence {sure}, at most {most} of the answers differ from the full model's, for inputs like the "
    words += (
        f"{count} calibration samples ({found['changed']} of them changed; exact upper bound {share(found['bound'])}; "
    )
    return words + f"threshold {found['threshold']:.3f})."


def search_words(found: dict[str, Any]) -> list[str]:
    """What a search found, beside the best of as many random schedules; nothing for a comparison of methods."""
    if found["method"] == "vtw":
        return [f"VTW: all visual tokens leave before layer {found['layer']}."]
    if "verdict" not in found:
        return []
    own, random = found["verdict"], found["random"]
    return [
        f"{found['method']}: {share(own['flops_share'])} of the prefill FLOPs, {share(own['effectiveness'])} as good "
        f"as the full model by {found['measure']} on its {len(found['samples'])} calibration samples, after "
        f"{found['trials']} trials; the best of {found['random_trials']} random schedules is "
        f"{share(random['effectiveness'])} as good, for {share(random['flops_share'])}.",
        *([_beside_published(found["rates"])] if found.get("rates") else []),
        *found["notes"],
    ]


def _beside_published(rates: list[float]) -> str:
    own, theirs = half_gone(rates), half_gone(SCHEDULE)
    gone = "It keeps more than half in every layer" if own is None else f"Half are gone at layer {own} of {len(rates)}"
    return (
        f"{gone}, with a mean of {share(sum(rates) / len(rates), 0)} kept; G-Search's authors found layer {theirs} of "
        f"{len(SCHEDULE)} and {share(sum(SCHEDULE) / len(SCHEDULE), 0)} for LLaVA-1.5-7B. A small model, or one that "
        "reads its image late, may differ."
    )


def sample_cards(data: ReportData) -> list[dict[str, Any]]:
    """The samples that have a picture, with what each layer processed of it: in words, and as heights in per cent."""
    cards = []
    for sample in data.samples:
        png = data.pictures.get(sample["id"])
        if png is None:
            continue
        whole = visual_tokens_of_prompt(sample)
        words = processed(sample["visual_tokens"], whole)
        heights = [round(100 * count / max(1, whole)) for count in sample["visual_tokens"]]
        card = {"png": png, "heights": heights, "words": f"{words} · {sample['family'] or ''}".rstrip(" ·")}
        card["mark_with"], card["mark_without"] = _mark(sample["right_with"]), _mark(sample["right_without"])
        cards.append(sample | card)
    return cards


def _mark(right: bool | None) -> str:
    return "" if right is None else "right" if right else "wrong"
