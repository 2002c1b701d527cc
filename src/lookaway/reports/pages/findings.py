"""The sections of a study on the page: sentences, figures and the numbers behind them. Reads records only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ...core.errors import DataError
from ..collect import ReportData
from ..figures import attention as attention
from ..figures import effect as effects
from . import findings_text as words

__all__ = ["Section", "sections", "study_figure"]

Figure = tuple[Callable[[ReportData], str], str, str]
"""(what draws it, the table it needs, caption)."""

FLOW: tuple[Figure, ...] = (
    (
        attention.flow,
        "flow",
        "As published (DyVTE): heads merged by maximum, so values may exceed 1. Shaded: one standard deviation over "
        "questions.",
    ),
    (
        attention.shares,
        "flow",
        "The same attention merged by mean: shares that add up to 1. Text before the image (system prompt, first "
        "token) is what published curves leave out.",
    ),
    (attention.cross_by_family, "flow", "Share of the question's attention on the image, by family of questions."),
    (
        attention.spread_by_family,
        "flow",
        "How much questions of one family differ in it: one standard deviation. Families of one question are left out.",
    ),
    (
        attention.entropy,
        "entropy",
        "Entropy of the heads' own weights, in nats: on the image, and of text on text with and without exits.",
    ),
)
STAGES: tuple[Figure, ...] = (
    (
        attention.stages,
        "stages",
        "The curves that are divided, each scaled from its smallest to its largest value. Lines: change points; "
        "shaded: their 95 % bootstrap intervals.",
    ),
    (
        effects.causes,
        "causes",
        "Each as a share of its own sum over windows. Where attention lies above the effect, layers look at much that "
        "matters little.",
    ),
    (
        effects.changed,
        "causes",
        "Share of answers that change when the question cannot attend to the image in a window of layers. "
        "Shaded: 95 % interval over all questions.",
    ),
    (
        effects.saliency,
        "saliency",
        "Gradients of the loss of the model's own answer: how much it depends on reading the image, and on what may "
        "still be read.",
    ),
)
STOPPING: tuple[Figure, ...] = (
    (
        effects.stopping,
        "stopping",
        "All visual tokens leave before the same layer for all questions. Shaded: 95 % interval over all questions.",
    ),
    (
        effects.accuracy,
        "accuracy",
        "The same, judged by the ground truth. Shaded: 95 % interval over all questions.",
    ),
    (
        effects.earliest,
        "stopping",
        "Each question's earliest exit that does not change the answer (the oracle's choice).",
    ),
)
RANKS: tuple[Figure, ...] = (
    (
        attention.ranks,
        "ranks",
        "Kendall's τ between the scores of visual tokens in all pairs of layers (scores: attention of the question's "
        "tokens, mean over heads).",
    ),
    (
        attention.neighbours,
        "ranks",
        "Each layer with the next: τ for both kinds of query, and the overlap of their highest tokens. Dotted: 0.7.",
    ),
    (attention.medians, "ranks", "Median score of a visual token."),
)


@dataclass(frozen=True)
class Section:
    """One heading of the page."""

    id: str
    title: str
    words: list[str]
    figures: list[tuple[Any, str]]
    """(SVG, caption)."""
    head: list[str]
    rows: list[list[str]]

    def marked(self, mark: Callable[[str], Any]) -> Section:
        """The same with its SVG marked as safe."""
        return replace(self, figures=[(mark(svg), caption) for svg, caption in self.figures])


def sections(data: ReportData) -> list[Section]:
    """What these records allow, in the order of the page."""

    def drawn(row: tuple[Figure, ...]) -> list[tuple[Any, str]]:
        known = _known(data)
        return [(draw(data), caption) for draw, table, caption in row if known.get(table)]

    made = []
    if data.findings.get("flow"):
        made.append(Section("flow", "1 · Where attention goes", words.flow_words(data), drawn(FLOW), words.FLOW_HEAD,
                            words.flow_rows(data)))  # fmt: skip
    if data.findings.get("causes"):
        lines = [*words.stage_words(data), *words.cause_words(data)]
        made.append(Section("stages", "2 · Stages and their effect", lines, drawn(STAGES), words.CAUSE_HEAD,
                            words.cause_rows(data)))  # fmt: skip
    if data.findings.get("stopping"):
        made.append(Section("stopping", "3 · When the image stops mattering", words.stopping_words(data),
                            drawn(STOPPING), words.STOP_HEAD, words.stopping_rows(data)))  # fmt: skip
    if data.findings.get("ranks"):
        made.append(Section("ranks", "4 · Do layers agree on what matters?", words.rank_words(data), drawn(RANKS),
                            words.RANK_HEAD, words.rank_rows(data)))  # fmt: skip
    return made


def study_figure(data: ReportData, name: str) -> str:
    """One figure of a study by the name of what draws it, as SVG.

    Raises:
        DataError: no figure is called that, or these records do not allow it.
    """
    found = {draw.__name__: (draw, table) for draw, table, _ in (*FLOW, *STAGES, *STOPPING, *RANKS)}
    if name not in found:
        raise DataError(f"No figure is called {name!r}; there are {', '.join(found)}.")
    draw, table = found[name]
    if not _known(data).get(table):
        raise DataError(f"These records hold no {table!r}, which the figure {name!r} is drawn from.")
    return draw(data)


def _known(data: ReportData) -> dict[str, Any]:
    """Tables by name; accuracy counts as one where there is ground truth."""
    whole = (data.findings.get("stopping") or {}).get("all") or {}
    return data.findings | {"accuracy": whole.get("accuracy")}
