"""What the default models answer on the harder sets of questions, without any policy, beside the scenes they know.

python benchmarks/hard_sets.py --out benchmarks/results/hard-sets.json

Pairs of colour and shape that were never trained are left out (split test-seen), so that the pictures alone are harder.
Finished sets are not run again.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

from lookaway.core.files import write_json
from lookaway.core.provenance import provenance
from lookaway.core.record import Sample
from lookaway.data import load_samples
from lookaway.evaluation.header import run_header
from lookaway.evaluation.statistics import share_interval
from lookaway.models.answers import own_answers
from lookaway.models.encoding import group_by_image
from lookaway.models.loading import load_model

SETS = {"scenes": 10, "mini:crowded": 9, "mini:photo": 9, "mini:whole": 4}
"""Set -> questions a picture."""


def accuracies(samples: list[Sample], answers: dict[str, str]) -> dict[str, list[float]]:
    """Family -> accuracy with its 95 % interval clustered by image, and the number of questions; 'all' first."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups["all"].append(sample)
        groups[sample.family or ""].append(sample)
    return {
        family: [*share_interval([answers[s.id] == s.answer for s in own], [s.image_key for s in own]), len(own)]
        for family, own in groups.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/hard-sets.json"))
    parser.add_argument("--pictures", type=int, default=20, help="pictures of each set")
    parser.add_argument("--models", nargs="+", default=["lookaway-mini-plain", "lookaway-mini"])
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {"runs": {}, "accuracy": {}}
    for name in options.models:
        model, processor = load_model(name)
        for spec, questions in SETS.items():
            samples = load_samples(spec, "test-seen", options.pictures * questions)
            facts = provenance(
                model=model, processor=processor, samples=samples, options={"pictures": options.pictures}
            )
            key = f"{name} {spec}"
            if found["runs"].get(key, {}).get("provenance") == facts:
                continue
            tokens = own_answers(model, processor, group_by_image(samples, 16), 8)
            answers = {
                i: processor.tokenizer.decode(said, skip_special_tokens=True).strip() for i, said in tokens.items()
            }
            found["accuracy"][key] = accuracies(samples, answers)
            found["runs"][key] = run_header("hard-sets", model, spec, {"pictures": options.pictures}, 0, name, facts)
            write_json(options.out, found)
            print(key, {family: round(row[0], 3) for family, row in found["accuracy"][key].items()}, flush=True)


if __name__ == "__main__":
    main()
