"""The papers' experiments, ready to run: what a table needs, its commands, and the published numbers to hold beside.

    python benchmarks/reproduce.py                                   # what there is
    python benchmarks/reproduce.py --card 24GB                       # which of it fits a card, with time
    python benchmarks/reproduce.py configs/paper/dyvte-tables-1-2.yaml --model llava-1.5-7b --data DATA --out out/dyvte
    python benchmarks/reproduce.py ... --run                         # does it; without --run the commands are shown

Memory and hours are estimates: weights in bf16 and a third more for activations and the KV cache; twice the parameters'
FLOPs a token of prompt, at 40 % of the card's bf16 peak, and nothing for loading pictures. docs/reproduce.md.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "configs" / "paper"
PEAK = {"24GB": 165.0, "48GB": 360.0, "80GB": 312.0, "141GB": 989.0}
"""bf16 TFLOP/s of an RTX 4090, an L40S, an A100 and an H200, dense."""
TEXT_TOKENS, EFFICIENCY, LABEL_PREFILLS = 65, 0.4, 2.6
"""Tokens of text in a prompt; share of the peak that is reached; prefills that all labels of one sample cost."""


def load(path: Path) -> dict[str, Any]:
    """An experiment, with its name."""
    return {"name": path.stem, **yaml.safe_load(path.read_text(encoding="utf-8"))}


def steps(
    experiment: Mapping[str, Any], model: str, data: str, out: str, weights: str | None = None,
    source: str | None = None,
) -> list[list[str]]:  # fmt: skip
    """The commands as argument lists, `lookaway` first left out.

    Args:
        weights: folder of the model; None: its id.
        source: the same of the model that gates are learnt on, where that is another one.
    """
    names = {
        "model": weights or experiment["models"][model]["id"],
        "source": source or experiment.get("source", ""),
        "data": data,
        "out": out,
        "tasks": ",".join(experiment.get("tasks", ())),
        "config": experiment["models"][model].get("config", ""),
    }
    # divided before the names are filled in: a folder's name may hold spaces
    return [[part.format(**names) for part in shlex.split(step)][1:] for step in experiment["steps"]]


def memory_gb(model: Mapping[str, Any]) -> float:
    """GB that inference takes, about."""
    return 2 * model["billions"] * 4 / 3


def hours(experiment: Mapping[str, Any], model: Mapping[str, Any], card: str) -> float:
    """GPU hours of all steps, about: each question is answered twice, with the policy and without."""
    prefill = 2 * model["billions"] * 1e9 * (model["visual"] + TEXT_TOKENS)
    asked = experiment["questions"]
    prefills = 2 * asked.get("eval", 0) + LABEL_PREFILLS * asked.get("train", 0) + asked.get("search", 0)
    return prefills * prefill / (PEAK[card] * 1e12 * EFFICIENCY) / 3600


def table(card: str | None) -> str:
    """One line an experiment and model; with a card those that fit it."""
    lines = []
    for path in sorted(FOLDER.glob("*.yaml")):
        experiment = load(path)
        for name, model in experiment["models"].items():
            need = memory_gb(model)
            if card is None:
                lines.append(f"{path.stem:20s} {name:16s} {need:5.0f} GB   {experiment['title']}")
            elif need <= float(card.removesuffix("GB")):
                found = hours(experiment, model, card)
                lines.append(f"{path.stem:20s} {name:16s} {need:5.0f} GB {found:7.1f} h   {experiment['title']}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", type=Path, help="a file of configs/paper")
    parser.add_argument("--card", choices=sorted(PEAK), help="list what fits this card")
    parser.add_argument("--model", help="a model of the experiment; default: its first")
    parser.add_argument("--weights", help="folder of the model's weights, where the hub cannot be reached")
    parser.add_argument("--source", help="the same of the model that gates are learnt on, where it is another one")
    parser.add_argument("--data", default="DATA", help="folder of the experiment's data")
    parser.add_argument("--out", default="out/reproduce")
    parser.add_argument("--run", action="store_true", help="run the commands")
    options = parser.parse_args()
    if options.experiment is None:
        print(table(options.card))
        return 0
    if not options.experiment.is_file():
        known = ", ".join(str(path) for path in sorted(FOLDER.glob("*.yaml")))
        parser.error(f"There is no experiment {options.experiment}; there are {known}.")
    experiment = load(options.experiment)
    model = options.model or next(iter(experiment["models"]))
    if model not in experiment["models"]:
        parser.error(f"{options.experiment} has no model {model!r}; it has {', '.join(experiment['models'])}.")
    missing = [name for name in experiment["data"] if not (Path(options.data) / name).exists()]
    for name in missing:
        print(f"needed in {options.data}: {name} ({experiment['data'][name]})")
    if options.run and missing:
        return 1
    for arguments in steps(experiment, model, options.data, options.out, options.weights, options.source):
        print("lookaway", shlex.join(arguments), flush=True)
        if options.run and subprocess.run([sys.executable, "-m", "lookaway", *arguments]).returncode:
            return 1
    print("published:", experiment["published"].get(model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
