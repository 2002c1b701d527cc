"""Options of `lookaway search`: which schedules are tried, on which samples, and when one is good enough."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..search.schedules.compare import BUDGETS
from ..search.schedules.g_search import GSearchOptions
from ..search.schedules.p_sigmoid import PSigmoidOptions
from .model_options import PublishedModel

__all__ = ["Options"]


@dataclass(frozen=True, kw_only=True)
class Options(PSigmoidOptions, GSearchOptions, PublishedModel):
    """Search how many visual tokens each layer keeps. The same command again continues from its storage; several
    terminals that run it share the trials."""

    method: Literal[
        "p-sigmoid", "g-search", "random", "vtw", "logistic", "linear", "exponential", "single-layer", "multi-step"
    ] = "p-sigmoid"
    """What is searched (docs/methods/g-search.md, p-sigmoid.md); random: staircases; vtw: one exit layer. And, with
    options of their own (lookaway search --method eas --help): eas, attentions to skip; shortv, layers to freeze."""
    budget: float | None = None
    """Share of the unpruned cost (0.5 where none is given). G-Search has none: its schedule is scaled to it."""
    unit: Literal["flops", "tokens"] = "flops"
    """flops: counted prefill FLOPs; tokens: visual tokens that a layer processes on average (mean keep rate)."""
    model: str = "lookaway-mini"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    data: str = "mini"
    """mini, scenes, easy-vqa, or a file or folder of your own (docs/data.md): what schedules are evaluated on."""
    split: str = "calibration"
    """calibration; or all of your own file, where the test samples are in another file."""
    limit: int | None = 200
    """At most this many samples; those without an image are left out."""
    measure: Literal["loss", "agreement", "score"] = "loss"
    """What is optimised: ratio of losses, agreement with the full model's answers, or accuracy."""
    slack: float = 0.05
    """Added to both losses of the ratio, so that it stays stable where the full model's loss is tiny."""
    ranking: str = "last-token"
    """Which visual tokens are kept: last-token, question-mean, uniform, random, ... (`policies.ranking`)."""
    first_layer: int = 2
    """The first layer (0-based) that may keep less."""
    random_trials: int | None = None
    """Random schedules to compare with; default: as many as the search had trials."""
    threshold: float = 0.003
    """vtw: largest mean KL divergence of the next token, in nats."""
    compare: bool = False
    """Instead of one search: every method at every budget of --budgets, evaluated on the test samples."""
    budgets: tuple[float, ...] = BUDGETS
    """--compare: shares of the full model's prefill FLOPs."""
    methods: tuple[str, ...] = ()
    """--compare: some of the methods only (search/schedules/methods.py lists them)."""
    test_data: str | None = None
    """--compare: where the test samples come from; default: --data."""
    test_split: str = "test"
    """--compare: their split; it must share no sample and no image with the calibration samples."""
    test_limit: int | None = 500
    """--compare: at most this many test samples."""
    out: Path = Path("schedule")
    """Folder of the policy, its trial log (records.jsonl) and the storage."""
    storage: str | None = None
    """Where trials are shared: a .journal or .db file, or postgresql://...; default: study.journal in --out."""
    lease: float = 1800.0
    """Seconds after which a trial is repeated if its worker on another machine is silent."""
    batch_size: int = 16
    """Samples per batch."""
    max_new_tokens: int = 32
    """Longest own answer, in tokens."""
    memory: float = 4.0
    """GiB of states kept in memory between trials; the rest go to a temporary folder."""
    seed: int = 0
    """Seed of data, random schedules and suggestions."""
    fresh: bool = False
    """Start anew: the trials of this search in the storage are removed first. Of several workers give it to one."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""

    def __post_init__(self) -> None:
        PSigmoidOptions.__post_init__(self)
        GSearchOptions.__post_init__(self)
