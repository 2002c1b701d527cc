"""The leaderboard of our own policies, docs/board.html, from the committed records.

    python benchmarks/board.py                             # draws it; no model runs
    python benchmarks/board.py --run lookaway-mini-plain   # answers first; goes on after a kill; about 15 minutes

`--run` asks `policies` the very questions that the committed fits were shown on (160, one an image, of a split that
nothing was trained, chosen or certified on), so that all of them stand in one table. Folders of users lie in
benchmarks/results/contributed/ (docs/leaderboard.md says what belongs there).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lookaway as la
from lookaway.core.decision import Policy
from lookaway.core.record import RecordWriter, read_records, write_records
from lookaway.reports.pages.board import write_board

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "board.html"
MODELS = ("lookaway-mini-plain", "lookaway-mini")
DATA, SPLIT, COUNT, SEED = "mini", "test-seen", 160, 1


def policies(model: str) -> Mapping[str, Policy]:
    """Those that no fit shows: the shipped gates, an exit at their cost, methods at about a quarter of the tokens."""
    from lookaway.models.mini.model import shipped_gates

    gates = la.load(shipped_gates(model))
    return {  # README's table first
        "exit-gates": gates,
        "fixed-exit": la.ExitAt(20),  # costs a little more than the gates of either model
        "fastv-then-gates": la.chain(la.FastV(2, 0.5), gates),
        "cdpruner": la.CDPruner(0.25),
        "divprune": la.DivPrune(0.25),
        "visionzip": la.VisionZip(0.25),
        "dart": la.DART(layer=2, keep=0.25),
        "fastv": la.FastV(2, 0.75),
        "pyramiddrop": la.PyramidDrop(),
    }


def folders() -> list[Path]:
    """What the page shows: committed fits, evaluations of POLICIES, and what users handed in."""
    found = [*RESULTS.glob("fit-*"), *RESULTS.glob("board-*")], (RESULTS / "contributed").iterdir()
    return [path for some in found for path in sorted(some) if path.is_dir()]  # a fit that certified nothing is a file


def draw(page: Path = PAGE) -> Path:
    return write_board(folders(), page, la.__version__)


def answers_without(model: str, samples: Mapping[str, Any]) -> dict[str, str]:
    """Sample id -> what the model says without a policy, from the committed fit that was shown on these samples."""
    for path in sorted(RESULTS.glob("fit-*/held-out.jsonl")):
        records = list(read_records(path))
        header = next(record for record in records if record["kind"] == "run")
        if header["model"] == model and header["provenance"]["samples"] == samples:
            return {record["id"]: record["answer_without"] for record in records if record["kind"] == "sample"}
    raise SystemExit(f"No committed fit of {model} was shown on these questions, so nobody knows its own answers.")


def run(model_name: str, work: Path) -> None:
    """One file a policy in benchmarks/results/board-MODEL: the run's header and its summary. Answers stay in `work`."""
    from lookaway.cli.common import earlier_records
    from lookaway.cli.progress import progress
    from lookaway.core.provenance import provenance, sample_facts
    from lookaway.data import load_samples
    from lookaway.evaluation.header import run_header
    from lookaway.evaluation.runner import evaluate_policy, results_from_records
    from lookaway.evaluation.scorers import scorer_for
    from lookaway.evaluation.scores import score_pairs
    from lookaway.evaluation.summary import summarise

    samples = load_samples(DATA, SPLIT, COUNT, SEED, distinct_images=True)
    without = answers_without(model_name, sample_facts(samples))
    scorer = scorer_for(samples, "auto")
    model, processor = la.load_model(model_name, device="cpu")
    options: dict[str, Any] = {"max_new_tokens": 32, "split": SPLIT, "limit": COUNT, "seed": SEED}
    for name, policy in policies(model_name).items():
        facts = provenance(model=model, processor=processor, policy=policy, samples=samples, options=options)
        header = run_header("eval", model, DATA, {**options, "name": "gates"}, SEED, model_name, facts)
        kept = work / model_name / f"{name}.jsonl"
        done = results_from_records(earlier_records(kept, facts, fresh=False))
        with RecordWriter(kept) as writer, progress(f"{model_name}, {name}", len(samples)) as advance:
            if not done:
                writer.write("run", **header)
            results = evaluate_policy(model, processor, policy, samples, variant="gates", writer=writer, done=done,
                                      without=without, progress=advance)  # fmt: skip
        scores = score_pairs(scorer, samples, results)
        summary: dict[str, Any] = {
            "variant": "gates", "rows": [asdict(row) for row in summarise(results, scores)],
            "can_exit": policy.can_exit(results[0].num_layers), "scorer": scores.scorer, "totals": scores.totals,
            "totals_without": scores.totals_without,
        }  # fmt: skip
        target = RESULTS / f"board-{model_name.removeprefix('lookaway-')}" / f"{name}.jsonl"
        write_records(target, [("run", {**header, "argv": ["board.py", "--run", model_name]}), ("summary", summary)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=MODELS, help="answer the questions first")
    parser.add_argument("--work", type=Path, default=Path("out/board"), help="folder of the answers")
    options = parser.parse_args()
    if options.run:
        run(options.run, options.work)
    print(draw())
    return 0


if __name__ == "__main__":
    sys.exit(main())
