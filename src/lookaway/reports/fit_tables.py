"""Records of `lookaway fit` -> what its page says and draws. Pure, tested without a plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.bounds import smallest_epsilon, upper_bound
from .collect import ReportData
from .formatting import share
from .policy_words import policy_words

__all__ = ["Point", "beside_rows", "by_score", "certificate_text", "chosen_words", "family_rows", "fit_of", "fit_tiles",
           "found_points", "kept_of", "ordered_beside", "points_unit", "possible_text", "same_interval", "seconds_rows",
           "speed_texts", "tested_rows", "timed_of", "unit_of"]  # fmt: skip

UNITS = {
    "flops": "prefill FLOPs of the decoder",
    "kv": "KV-cache entries after prefill",
    "seconds": "measured seconds",
}
"""What was minimised -> its words."""


@dataclass(frozen=True)
class Point:
    """One policy on the search split."""

    method: str
    cost: float
    """Share of the full model's."""
    kept: float
    """Share of the samples with the full model's own answer; of --metric score 1 - the mean loss of score."""


def fit_of(data: ReportData) -> dict[str, Any]:
    """The result that the page draws: the latest."""
    return data.fits[-1]


def unit_of(found: Mapping[str, Any]) -> str:
    """What was minimised, in words."""
    return UNITS[found["unit"]]


def by_score(found: Mapping[str, Any]) -> bool:
    """The task's own score is certified, not the answers."""
    return bool(found["metric"] == "score")


def kept_of(found: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """What the front shows of a row: see `Point.kept`."""
    return 1 - row["loss"] if by_score(found) else 1 - row["changed"] / row["samples"]


def same_interval(changed: int, samples: int) -> tuple[float, float, float]:
    """Share of unchanged answers with its exact (Clopper-Pearson) 95 % interval: (value, low, high)."""
    high = 1 - (1 - upper_bound(samples - changed, samples, 0.025) if changed else 0.0)
    return 1 - changed / samples, 1 - upper_bound(changed, samples, 0.025), min(1.0, high)


def timed_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of what was timed on the search split; before 0.2 records hold those of the order of testing alone."""
    return [row for row in found.get("timed", found["order"]) if row["seconds"] is not None]


def points_unit(found: Mapping[str, Any]) -> str:
    """What the points' cost is a share of, in words: measured seconds where there are any, else what was counted."""
    if found["unit"] == "seconds" and not timed_of(found):
        return f"{UNITS['flops']}, for nothing was timed"
    return unit_of(found)


def found_points(found: Mapping[str, Any]) -> list[Point]:
    """Every policy that ran on the search split, second looks included, the costliest first; where seconds were
    measured, the policies that were timed, for the others' cost is counted in another unit."""
    if found["unit"] == "seconds" and (timed := timed_of(found)):
        return sorted((Point(row["method"], row["share"], kept_of(found, row)) for row in timed), key=lambda p: -p.cost)
    rows = {(row["name"], row["share"]): row for row in (*found["tried"], *found["front"], *found["order"])}
    points = [Point(row["method"], row["share"], kept_of(found, row)) for row in rows.values()]
    named = set(points)
    for cost, changed, samples, loss in found["second_looks"]:
        row = {"changed": changed, "samples": samples, "loss": loss}
        point = Point("second-look", cost, kept_of(found, row))
        if point not in named:
            points.append(point)
    return sorted(points, key=lambda point: -point.cost)


def chosen_words(data: ReportData) -> str:
    """The certified policy in words: from its saved settings where the records hold them."""
    found = fit_of(data)
    settings = found.get("policy") or next((row.get("policy") for row in data.beside.values()), None)
    words = policy_words(settings) if settings else found["chosen"]["name"]
    return words[0].upper() + words[1:] + "."


def certificate_text(data: ReportData) -> str:
    """The certificate in one plain sentence, or why there is none."""
    found = fit_of(data)
    shown, options = found["certificate"], found["options"]
    sure = share(1 - options["delta"], 0)
    if shown is None:
        return f"No policy is certified. {found.get('why') or _why_none(found)}"
    if by_score(found):
        return (
            f"With confidence {sure}, the mean score ({shown['scorer']}) falls by at most {share(shown['bound'], 2)} "
            f"on inputs like the {shown['samples']} questions that certified it, where it fell by "
            f"{share(shown['loss'], 2)} ({shown['method']}; each question has an image of its own; asked for: at most "
            f"{share(shown['epsilon'])})."
        )
    return (
        f"With confidence {sure}, at most {share(shown['bound'], 2)} of the answers differ from the full model's, on "
        f"inputs like the {shown['samples']} questions that certified it, of which {_changed(shown['changed'])} (exact "
        f"binomial bound; each question has an image of its own; asked for: at most {share(shown['epsilon'])})."
    )


def _why_none(found: Mapping[str, Any]) -> str:
    """Of records that do not say why (before 0.2): what the first test found."""
    if not found["tested"]:
        return "None was tested."
    first = found["tested"][0]
    return (
        f"The first that was tested, {first['name']}, lost {share(first['loss'], 2)}, which bounds the loss at "
        f"{share(first['bound'], 2)}; {share(found['options']['epsilon'])} is allowed."
    )


def speed_texts(data: ReportData) -> list[str]:
    """Of a speed-up that was asked for: what could be reached at all, and what the certified policy lacks of it."""
    found = fit_of(data)
    reach = found.get("reach")
    return [*([] if reach is None else [reach["words"]]), *([found["missed"]] if found.get("missed") else [])]


def _changed(count: int) -> str:
    return "none changed" if count == 0 else f"{count} changed"


def possible_text(data: ReportData) -> str:
    """Which epsilon these samples could show at best."""
    found = fit_of(data)
    shown = found["certificate"] or (found["tested"][0] if found["tested"] else None)
    if shown is None or by_score(found):
        return ""
    samples, delta = shown["samples"], found["options"]["delta"]
    least = share(smallest_epsilon(samples, delta), 2)
    return f"{samples} questions can show no less than {least}, even if no answer changes."


def fit_tiles(data: ReportData) -> list[tuple[str, str]]:
    """The numbers at the top."""
    found = fit_of(data)
    if found["certificate"] is None:
        return []
    cost, chosen = found["certificate"]["share"], found["chosen"]
    sure = share(1 - found["options"]["delta"], 0)
    tiles = [
        (f"{1 / cost:.1f} ×", f"cheaper: {share(cost)} of the full model's {unit_of(found)}"),
        (
            f"≤ {share(found['certificate']['bound'], 2)}",
            f"{'loss of score' if by_score(found) else 'changed answers'}, with confidence {sure}",
        ),
    ]
    own = next(iter(data.beside.values()), None)
    if own is not None:
        tiles.append((f"{own['same']} of {own['samples']}", "held-out answers the same as the full model's"))
        if own["accuracy"] is not None:
            tiles.append((share(own["accuracy"][0]), f"right there ({share(own['accuracy_without'][0])} without)"))
    if chosen.get("threshold") is not None:
        tiles.append((share(chosen["again"], 0), "of the questions need the second look"))
    if timed := found["confirmed"] or chosen["seconds"]:
        tiles.append((f"{timed['speedup']:.2f} ×", "as fast as the full model, measured on this machine"))
    return tiles


def beside_rows(data: ReportData) -> list[list[str]]:
    """Cells of the table of held-out results, the policy first, then by same answers."""
    return [
        [
            name + (" (its own cost)" if row["own_cost"] else ""),
            share(row["flops_share"]),
            share(row["kv_share"]),
            f"{row['same']} of {row['samples']}: {_interval(row['agreement'])}",
            "–" if row["accuracy"] is None else _interval(row["accuracy"]),
        ]
        for name, row in ordered_beside(data)
    ]


def ordered_beside(data: ReportData) -> list[tuple[str, dict[str, Any]]]:
    """The policy itself, then the others, the ones with most unchanged answers first."""
    first, *others = data.beside.items()
    return [first, *sorted(others, key=lambda item: (-item[1]["agreement"][0], item[1]["flops_share"]))]


def family_rows(data: ReportData) -> list[list[str]]:
    """Cells of the policy's table by family of questions, on the held-out samples."""
    own = next(iter(data.beside.values()))
    return [
        [
            row["family"],
            str(row["samples"]),
            _interval(row["agreement"]),
            share(row["accuracy_without"]),
            share(row["accuracy_with"]),
            share(row["flops_share"]),
            f"{row['visual_tokens']:.0f} of {row['full_visual_tokens']:.0f}",
        ]
        for row in own["families"]
    ]


def tested_rows(data: ReportData) -> list[list[str]]:
    """Cells of the certification tests, in their order."""
    found = fit_of(data)
    return [
        [
            row["name"],
            share(row["share"]),
            f"{row['changed']} of {row['samples']}",
            share(row["bound"], 2),
            "passes" if row["bound"] <= found["options"]["epsilon"] else "fails",
        ]
        for row in found["tested"]
    ]


def seconds_rows(data: ReportData) -> list[list[str]]:
    """Cells of the table of measured seconds: the certified policy, timed again, and what was timed in the search."""
    found = fit_of(data)
    rows = [(row["name"], row["seconds"]) for row in timed_of(found)]
    if found["confirmed"] is not None:
        rows.insert(0, (f"{found['chosen']['name']}, timed again on the certification samples", found["confirmed"]))
    return [
        [
            name,
            f"{1000 * timed['seconds']:.0f} ms",
            f"{1000 * timed['full_seconds']:.0f} ms",
            f"{timed['speedup']:.2f} × ({timed['quartiles'][0]:.2f} to {timed['quartiles'][1]:.2f})",
            _by_rows(timed),
            str(timed["batch_size"]),
            str(timed["answer_tokens"]),
        ]
        for name, timed in rows
    ]


def _by_rows(timed: Mapping[str, Any]) -> str:
    """Milliseconds of a batch by how many of its rows look again; '–' of a policy of one pass (before 0.2: of all)."""
    looks = timed.get("looks") or []
    return ", ".join(f"{rows}: {1000 * seconds:.0f} ms" for rows, seconds in looks) or "–"


def _interval(found: list[float]) -> str:
    value, low, high = found
    return f"{share(value)} ({100 * low:.1f} to {100 * high:.1f})"
