"""What stands beside a policy in `lookaway eval`: random and uniform tokens, downsampling, a fixed exit at its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.decision import Policy
    from ..core.record import RecordWriter, Sample
    from ..evaluation.beside import Baseline
    from ..evaluation.runner import PairedResult
    from ..evaluation.scores import PairedScores
    from ..evaluation.statistics import Estimate
    from ..evaluation.summary import SummaryRow

__all__ = ["Beside", "check_name", "same_policy", "write_baselines"]

FIXED = ("without", "this policy", "FastV as published")
"""Names that records give to something else."""


class Beside:
    """Writes and tells what was found beside the policy `name`: a 'summary' and perhaps a 'hard' record a baseline."""

    def __init__(self, writer: RecordWriter, name: str) -> None:
        self.writer, self.name = writer, name

    def add(
        self,
        baseline: Baseline,
        rows: Sequence[SummaryRow],
        num_layers: int,
        hard: tuple[int, Estimate] | None,
        **more: Any,
    ) -> None:
        """A baseline's rows, and how the policy does where it is not enough (`hard_questions`; None: not known).

        Args:
            more: for the 'summary'.
        """
        from .common import tell

        name = baseline.name
        self.writer.write(
            "summary", variant=name, rows=[asdict(row) for row in rows], beside=self.name,
            own_cost=baseline.own_cost, can_exit=baseline.policy.can_exit(num_layers), **more,
        )  # fmt: skip
        cost = f"{rows[0].flops_share:.1%} of the FLOPs"
        right = "" if rows[0].accuracy_with is None else f"{rows[0].accuracy_with:.1%} of {rows[0].scored} right, "
        tell(f"beside it, {name} at {cost}: {right}{rows[0].agreement.value:.1%} the same answer")
        if hard is not None:
            count, kept = hard
            self.writer.write("hard", variant=self.name, beside=name, questions=count, retention=kept)
            tell(
                f"of the {count} question{'s' * (count != 1)} that the full model answers and {name} does not, "
                f"{self.name} keeps {kept.value:.1%} ({kept.low:.1%} to {kept.high:.1%}) of the score"
            )


def write_baselines(
    writer: RecordWriter, model: Any, processor: Any, policy: Policy, samples: Sequence[Sample],
    results: Sequence[PairedResult], scorer: Any, scores: PairedScores | None, *, name: str,
    done: Sequence[PairedResult] = (), seed: int = 0, batch_size: int = 8, max_new_tokens: int = 32,
) -> None:  # fmt: skip
    """Answer the same samples by each baseline; an interrupted run goes on.

    Args:
        results: of the policy, which is called `name` in tables.
        scorer: of the samples' answers; None: only agreement is asked for.
        done: what an interrupted run has finished, of all variants.
    """
    from ..anatomy.find import anatomy_of
    from ..core.errors import LookawayError
    from ..evaluation.beside import at_cost, shows_what_is_hard
    from ..evaluation.runner import evaluate_policy
    from ..evaluation.scores import score_pairs
    from ..evaluation.summary import summarise
    from ..evaluation.token_baselines import hard_questions
    from .common import tell
    from .progress import progress

    beside = Beside(writer, name)
    without = {result.id: result.answer_without for result in results}
    for other in at_cost(results, anatomy_of(model), seed):
        if same_policy(other.policy, policy):
            continue
        try:
            with progress(f"beside it: {other.name}", len(samples)) as advance:
                theirs = evaluate_policy(
                    model, processor, other.policy, samples, variant=other.name, writer=writer, done=done,
                    batch_size=batch_size, max_new_tokens=max_new_tokens, without=without,
                    right=None if scorer is None else scorer.right, progress=advance,
                )  # fmt: skip
        except LookawayError as error:  # not every method fits every model
            tell(f"note: {other.name} is not shown beside the policy: {error}")
            continue
        own = score_pairs(scorer, samples, theirs) if scorer is not None else None
        hard = None
        if scores is not None and own is not None and shows_what_is_hard(other.name):
            hard = hard_questions(results, scores, own)
        beside.add(other, summarise(theirs, own), results[0].num_layers, hard)


def same_policy(one: Policy, other: Policy) -> bool:
    """Whether both have one name and the same settings, so that a baseline is the policy itself."""
    return (one.name, _config(one)) == (other.name, _config(other))


def check_name(name: str) -> None:
    """--name is the policy's alone: what stands beside it has names of its own. A result file is named by it.

    Raises:
        SettingsError: it is one of those, or no name of a file.
    """
    from ..core.errors import SettingsError
    from ..evaluation.beside import DOWNSAMPLING, FIXED_EXIT
    from ..evaluation.token_baselines import NAMES

    if not name.strip() or "/" in name or "\\" in name:
        raise SettingsError(f"--name {name!r} cannot name a file. Give a word without slashes.")
    if name in (*FIXED, *NAMES.values()) or name.startswith((DOWNSAMPLING, FIXED_EXIT)):
        raise SettingsError(
            f"--name {name!r} is what tables call something that stands beside the policy. Give another."
        )


def _config(policy: Policy) -> Any:
    try:
        return policy.to_config()
    except TypeError:  # a policy of one's own without a saved form
        return policy
