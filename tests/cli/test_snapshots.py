"""What every command's table looks like in terminals of 80 and of 120 columns, to the letter (tests/cli/snapshots).

Renew them with `LOOKAWAY_SNAPSHOTS=write python -m pytest tests/cli/test_snapshots.py`, and look at what changed: no
word may be cut, no two columns may have one name, and no row may be hard to read.
"""

import ast
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lookaway.cli import (
    align,
    ask,
    bench_tables,
    ceiling,
    doctor,
    eval_tasks,
    fit,
    fit_reasons,
    fit_result,
    fit_said,
    policies,
    search,
    search_compare,
    summary,
)
from lookaway.cli import search_eas as eas
from lookaway.cli import search_shortv as shortv
from lookaway.cli.common import plain_console
from lookaway.cli.progress import Steps
from lookaway.evaluation.energy import EnergyRow
from lookaway.evaluation.scores import PairedScores
from lookaway.evaluation.speed_row import SpeedRow
from lookaway.evaluation.statistics import Estimate
from lookaway.evaluation.summary import SummaryRow
from lookaway.evaluation.time_shares import RANGES, TimeShares
from lookaway.search.fit.certify import Tested
from lookaway.search.fit.choices import Choice
from lookaway.search.fit.guarantee import Guarantee
from lookaway.search.fit.outcomes import Outcomes
from lookaway.search.fit.reach import Reach

FOLDER = Path(__file__).parent / "snapshots"
CLI = Path(summary.__file__).parent


def row(family, samples, **changes):
    values = {
        "samples": samples, "accuracy_without": 0.933, "accuracy_with": 0.921, "retention": Estimate(0.987, 0.95, 1.0),
        "p_value": 0.5, "agreement": Estimate(0.975, 0.94, 0.99), "mean_exit": 11.2, "never_exits": 0.1,
        "visual_tokens": 73.5, "full_visual_tokens": 196.0, "flops_share": 0.438, "fastv_share": 0.45,
        "kv_share": 0.47, "images": samples, "scored": samples,
    }  # fmt: skip
    return SummaryRow(family, **{**values, **changes})


ROWS = [row("all", 120), row("colour", 40), row("spatial relations", 40), row("easy-yesno", 40)]
SOME = [row(r.family, r.samples, images=r.samples // 3, scored=r.samples // 4) for r in ROWS]
NONE = [row(r.family, r.samples, scored=0, accuracy_without=None, accuracy_with=None) for r in ROWS]
TOTALS = PairedScores("pope", [], [], {"accuracy": 0.87, "f1": 0.86, "yes_ratio": 0.51},
                      {"accuracy": 0.88, "f1": 0.87, "yes_ratio": 0.5})  # fmt: skip
DECODED = {"new_tokens": 32, "per_token": 0.0123, "tokens_per_second": 767.4, "baseline_tokens_per_second": 330.6}
TIMED = [
    SpeedRow(variant, part, layer, 0.0417, (0.04, 0.05), 0.0968, speedup, (0.97 * speedup, 1.04 * speedup), implied,
             implied and 1.3 * implied, implied and speedup / implied, 73.5, 196.0,
             limit=0.0312, kv_bytes=9_876_543, **of_part)
    for part, implied, of_part in (("decoder", 2.4, {}), ("first token", None, {}), ("decode", None, DECODED))
    for variant, layer, speedup in (("exit at 15", 15, 1.72), ("idle", None, 0.995), ("gates-calibrated", 9, 2.32))
]  # fmt: skip
DRAFTED = [
    *TIMED[-3:],
    *(
        replace(TIMED[-1], variant=name, per_token=None, limit=None, draft="draft 8", drafted=drafted,
                accepted=accepted, acceptance=accepted / drafted if drafted else None, same_answer=True)
        for name, drafted, accepted in (("draft 8", 120, 84), ("gates-calibrated, draft 8", 0, 0))
    ),
]  # fmt: skip
SHARES = [
    TimeShares(
        name, 1, 0.2, dict(zip(RANGES, (0.01, 0.034, hooks, 0.0, 0.012, 0.002, 0.31, 0.632 - hooks), strict=True))
    )
    for name, hooks in (("exit at 15", 0.004), ("gates-calibrated", 0.053))
]
ENERGIES = [
    EnergyRow(name, "decode", 8, 32, 31.42, 45.67, 1.453, gpu, 0.9876, 1.4321, "CPU: RAPL counters", True, 0.512, 0.534)
    for name, gpu in (("exit at 15", 25.1), ("gates-calibrated", 24.9))
]
VERDICT = SimpleNamespace(effectiveness=0.9712, loss=0.2134, agreement=0.975, accuracy=0.9333, flops_share=0.4012,
                          tokens_share=0.3781)  # fmt: skip
EVALUATOR = SimpleNamespace(measure="agreement", work=SimpleNamespace(trials=40, ratio=0.213))
SEARCHED = SimpleNamespace(
    method="g-search", notes=["A note."], random=SimpleNamespace(verdict=VERDICT, trials=40),
    found=SimpleNamespace(verdict=VERDICT, trials=40,
                          schedule=SimpleNamespace(rates=[1.0] * 8 + [0.5] * 8 + [0.1] * 14)),
)  # fmt: skip
COMPARED = [
    SimpleNamespace(method=method, budget=budget, flops_share=0.98 * budget, accuracy=Estimate(0.91, 0.86, 0.95),
                    agreement=Estimate(0.95, 0.9, 0.98), visual_tokens=196 * budget, kv_bytes=9e6 * budget,
                    trials=trials)
    for method, budget, trials in (("full", 1.0, 0), ("g-search", 0.5, 65), ("random-schedules", 0.5, 65))
]  # fmt: skip
SKIPS = {
    "steps": 200, "updates": 40, "skipped": [12, 17, 21],
    "baselines": [
        {"name": name, "layers": layers, "accuracy": (0.91, 0.86, 0.95), "loss": 0.213, "p_full": 0.043}
        for name, layers in (("nothing", []), ("this search, with its adapters", [12, 17, 21]), ("random 1", [3, 9]))
    ],
}  # fmt: skip
ASKED = {"answer": "red", "answer_without": "blue", "visual_tokens": 196, "skipped_attention": [],
         "layer_visual_tokens": [196] * 2 + [68] * 28, "looked_again": False, "prefill_flops_share": 0.44,
         "kv_bytes_share": 0.47, "drafted_tokens": 0, "accepted_tokens": 0}  # fmt: skip


def tasks():
    result = SimpleNamespace(
        task="pope_adversarial", figures={"pope_accuracy": (0.88, 0.8712), "pope_f1": (0.87, 0.86)}
    )
    eval_tasks._show("gates", [result], ROWS[:2], Path("out/eval/report.html"), True)


def aligned():
    found = {kind: {"all": 0.963, "colour": 0.91} for kind in ("own", "shuffled", "none", "prior")}
    align.show({"exit-aware": found})


def looked_at():
    why = "yes. transformers reads it, and it is of the family LLaVA 1.5, Pixtral (docs/support.md)."
    doctor.show_facts({"folder": "/models/llava", "layout": "LLaVA (vicuna), a published one", "supported": why})


def fitted():
    """The lines of a fit: before its search, of one part of it, and of its end."""
    options = fit.Options(model="models/mine", data="photos.jsonl", epsilon=0.03, speedup=2.0)
    guarantee, console = Guarantee(options.epsilon, options.delta), plain_console()
    fit_said.say_what_can_be_shown(console, options, guarantee, 160, 160)
    reached = Reach(0.241, 0.45, "5% of the visual tokens enter the decoder", 1.4)
    console.print(fit_said.reach_text(reached, options))
    events = fit_said.search_events(
        console, options, guarantee, None, Steps("policies", None, lambda steps: None), False
    )
    events.on_part(1, 27, range(20, 40))
    few = np.zeros(40)
    tried = Outcomes.of_layers(np.arange(40) >= 7, few, few[:, None], few)
    events.on_tried("before-decoder/divprune-0.1", tried)
    for share in (0.1, 0.2):
        events.on_refused(f"before-decoder/visionzip-{share}", "Its vision tower gives no attention.")
    events.on_none(40)
    options, found = replace(options, speedup=None), []
    for name, share, changed in (("before-decoder/divprune-0.1 then full below 0.99", 0.345, 1),
                                 ("before-decoder/divprune-0.1 then full below 0.7", 0.251, 6)):  # fmt: skip
        choice = Choice(f"second-look/{name}", "second-look", np.arange(160) >= changed, np.ones(160), share, "a", "b")
        found.append(Tested(choice, guarantee.bound(choice)))
        console.print(fit_result.test_line(found[-1], guarantee))
    chosen = {"name": found[0].choice.name}
    certificate = {"share": 0.345, "changed": 1, "samples": 160, "bound": found[0].bound}
    console.print(fit_result.result_line({"chosen": chosen, "certificate": certificate, "confirmed": None}, options))
    none = SimpleNamespace(certificate=SimpleNamespace(tested=found[1:]), timed=())
    console.print(fit_reasons.why_none(none, guarantee))


PAGE = Path("out/eval/report.html")
SHOWN = {
    "ask": lambda: ask.show(ASKED),
    "ask-without": lambda: ask.show_without({"answer": "red", "model": "models/llava"}),
    "eval-gates": lambda: summary.show_summary("gates", ROWS, PAGE, TOTALS, can_exit=True),
    "eval-fastv": lambda: summary.show_summary("fastv", ROWS, PAGE, can_exit=False),
    "eval-some-answers": lambda: summary.show_summary("fastv", SOME, PAGE, can_exit=True),
    "eval-no-answers": lambda: summary.show_summary("fastv", NONE, PAGE, can_exit=False),
    "eval-tasks": tasks,
    "bench": lambda: bench_tables.show(TIMED),
    "bench-draft": lambda: bench_tables.show(DRAFTED),
    "bench-profile": lambda: bench_tables.show_shares(SHARES),
    "bench-energy": lambda: bench_tables.show_energies(ENERGIES),
    "search": lambda: search._show(SEARCHED, EVALUATOR, Path("schedule")),
    "search-compare": lambda: search_compare._show_rows(COMPARED, Path("out/report.html")),
    "search-eas": lambda: eas._show(SKIPS, Path("skip"), Path("skip/report.html")),
    "search-shortv": lambda: shortv._show({3: 0.012, 1: 0.8, 2: 0.0009}, (2, 3), 0.82, Path("schedule")),
    "align": aligned,
    "doctor": looked_at,
    "fit": fitted,
    "ceiling": lambda: ceiling.show(
        [SimpleNamespace(kind=kind, prefill_share=0.13, kv_share=0.6, total_share=0.21)
         for kind in ("removal inside the decoder (exit before layer 1)", "attention skipping, in all layers")]
    ),
    "policies": lambda: policies.show({
        "fastv": "From layer K on, the best-attended share of the visual tokens (FastV), the same for all rows.",
        "exit-at": "All visual tokens leave before one set layer.",
    }),
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", SHOWN)
def test_what_a_command_prints(name, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    SHOWN[name]()
    text = "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines())
    path = FOLDER / f"{name}-{width}.txt"
    if os.environ.get("LOOKAWAY_SNAPSHOTS") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert "…" not in text


def test_every_snapshot_is_of_something_that_is_printed():
    assert {path.stem.rsplit("-", 1)[0] for path in FOLDER.iterdir()} == set(SHOWN)


def test_every_command_with_a_table_is_here_and_none_makes_a_table_of_its_own():
    used, own = set(), set()
    for path in CLI.glob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        used |= {path.stem} if {"show_table", "show_facts"} & names else set()
        own |= {path.stem} if "rich.table" in path.read_text() else set()
    assert own == {"tables"}
    shown = {"align", "bench_tables", "ceiling", "summary", "doctor", "eval_tasks", "policies", "search",
             "search_compare", "search_eas", "search_shortv"}  # fmt: skip
    assert used - {"tables"} == shown
