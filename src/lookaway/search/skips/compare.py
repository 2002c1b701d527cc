"""Skip sets judged on the same samples: the searched one, the training-free ranking's, random ones, the last layers.

A searched set that is no better than a random one is worth nothing, so the comparison belongs to every search.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...anatomy.find import anatomy_of
from ...core.decision import Policy
from ...core.earlier_results import require_same
from ...core.errors import DataError
from ...core.files import write_json
from ...core.greedy import GreedyRule
from ...core.provenance import picture_key
from ...core.record import Sample
from ...engine.api import attach
from ...engine.replay.exit_table import EncodedBatch
from ...engine.replay.teacher_forcing import answer_logits
from ...evaluation.statistics import paired_p, share_interval
from ...models.encoding import encode
from ...policies.attention_skip import AttentionSkip
from ...policies.fixed import KeepAll
from .ranking import last_skips, least_change, output_changes, random_skips

__all__ = ["STATE", "SkipScore", "compare_skips", "evaluate_skips"]

NONE = "nothing skipped"
STATE = "skip-baselines.json"


@dataclass(frozen=True)
class SkipScore:
    """One skip set on some samples."""

    name: str
    layers: tuple[int, ...]
    adapters: bool
    """Something stands in for the skipped attentions."""
    loss: float
    """Mean over the samples of the answer's mean loss, in nats a token."""
    right: str
    """A '1' a sample that greedy decoding would answer exactly, else '0'."""

    images: tuple[str, ...]
    """Of each sample what names its pictures: questions about one picture are no independent draws."""

    @property
    def accuracy(self) -> tuple[float, float, float]:
        """Share that is right, with its 95 % interval, clustered by image."""
        return share_interval(_bools(self.right), self.images)

    def p_against(self, other: SkipScore) -> float:
        """p-value that both are right equally often: McNemar's, or a permutation test by image."""
        return paired_p(_bools(self.right), _bools(other.right), self.images)


def _bools(bits: str) -> list[bool]:
    return [bit == "1" for bit in bits]


@torch.no_grad()
def evaluate_skips(model: Any, batches: Sequence[EncodedBatch], policy: Policy) -> tuple[float, str]:
    """(loss, right) of `SkipScore`; one forward over prompt and answer a batch.

    Greedy decoding gives exactly the answer where the token that it takes agrees at all of its places and the end.
    """
    rule = GreedyRule.of(model)
    losses: list[float] = []
    right = ""
    for batch in batches:
        with attach(model, policy) as attached:
            logits, targets = answer_logits(model, attached, batch)
        assert batch.answer_mask is not None
        counts = batch.answer_mask.sum(1).tolist()
        each = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        inputs = batch.inputs
        said = rule.flat(logits.float(), inputs["input_ids"], batch.answer_mask, inputs["attention_mask"].bool())
        hits = said == targets
        losses += [float(part.mean()) for part in each.split(counts)]
        right += "".join(str(int(part.all())) for part in hits.split(counts))
    return sum(losses) / len(losses), right


def compare_skips(
    model: Any, processor: Any, samples: Sequence[Sample], found: AttentionSkip, out: Path, facts: Mapping[str, Any],
    *, random_sets: int = 5, batch_size: int = 8, progress: Callable[[int], object] = lambda sets: None,
) -> tuple[list[SkipScore], dict[int, float]]:  # fmt: skip
    """Judge a searched set beside nothing skipped, the ranking's, the last layers' and random sets of its size.

    Each verdict is saved in `out` when it is made: the same call goes on from there.

    Args:
        samples: with answers, that neither the search nor the ranking chose by.
        found: the searched set; with adapters it is judged with and without them.
        facts: what the verdicts depend on, plain values.

    Returns:
        (verdicts, changes): changes are the ranking's, layer -> KL divergence (`output_changes`), on the same number of
        samples, the first half of them; the other half is what all sets are judged on.

    Raises:
        DataError: there are fewer than two samples.
        StaleResults: `out` holds the verdicts of another comparison.
    """
    if len(samples) < 2:
        raise DataError("Sets are ranked on one half of the samples and judged on the other: give two or more.")
    depth, count = anatomy_of(model).num_layers, len(found.skipped)
    known = _load(out / STATE, dict(facts))

    def encoded(part: Sequence[Sample]) -> list[EncodedBatch]:
        return [
            encode(processor, part[i : i + batch_size], model.device, [str(s.answer) for s in part[i : i + batch_size]])
            for i in range(0, len(part), batch_size)
        ]

    def save() -> None:
        write_json(out / STATE, known)

    middle = len(samples) // 2
    if known["changes"] is None:
        known["changes"] = {str(k): v for k, v in output_changes(model, encoded(samples[:middle])).items()}
        save()
    progress(1)
    changes = {int(layer): value for layer, value in known["changes"].items()}
    sets: dict[str, Policy] = {NONE: KeepAll(), "searched": AttentionSkip(found.skipped)}
    if found.adapters is not None:
        sets["searched, adapters"] = found
    sets["ranking"] = AttentionSkip(least_change(changes, count))
    sets["last layers"] = AttentionSkip(last_skips(depth, count))
    sets |= {f"random {seed}": AttentionSkip(random_skips(depth, count, seed)) for seed in range(random_sets)}
    batches, verdicts = encoded(samples[middle:]), []
    digests = dict[str, str]()
    images = tuple(picture_key(sample, digests) for sample in samples[middle:])
    for name, policy in sets.items():
        layers = getattr(policy, "skipped", ())
        if name not in known["verdicts"]:
            loss, right = evaluate_skips(model, batches, policy)
            known["verdicts"][name] = {"loss": loss, "right": right}
            save()
        adapters = name == "searched, adapters"
        verdicts.append(SkipScore(name, tuple(layers), adapters, **known["verdicts"][name], images=images))
        progress(1)
    return verdicts, changes


def _load(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    facts = json.loads(json.dumps(facts))
    if not path.exists():
        return {"facts": facts, "changes": None, "verdicts": {}}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        theirs = known["facts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error!r}). Remove it to compare from the start.") from error
    require_same(theirs, facts, path)
    return dict(known)
