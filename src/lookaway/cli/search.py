"""`lookaway search`: keep schedules from a model and samples, beside random ones, or all methods at equal cost."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..search.compare import BUDGETS
from ..search.g_search import GSearchOptions
from ..search.p_sigmoid import PSigmoidOptions


@dataclass(frozen=True, kw_only=True)
class Options(PSigmoidOptions, GSearchOptions):
    """Search how many visual tokens each layer keeps. The same command again goes on from its storage; run it in
    several terminals, and they share the trials."""

    method: Literal[
        "p-sigmoid", "g-search", "random", "vtw", "logistic", "linear", "exponential", "single-layer", "multi-step"
    ] = "p-sigmoid"
    """What is searched (docs/methods/g-search.md, p-sigmoid.md); random: staircases; vtw: one exit layer. And eas:
    attentions to skip, with options of its own (lookaway search --method eas --help)."""
    budget: float | None = None
    """Share of the unpruned cost (0.5 where none is given). G-Search has none: its schedule is then made to fit."""
    unit: Literal["flops", "tokens"] = "flops"
    """flops: counted prefill FLOPs; tokens: visual tokens that a layer processes on average (mean keep rate)."""
    model: str = "lookaway-mini"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    data: str = "mini"
    """mini, scenes, easy-vqa, or a file or folder of your own (docs/data.md): what schedules are judged on."""
    split: str = "calibration"
    """calibration; or all of your own file, where the test has another one."""
    limit: int | None = 200
    """At most so many samples; those without an image are left out."""
    measure: Literal["loss", "agreement", "score"] = "loss"
    """How well a schedule does: ratio of losses, agreement with the full model's answers, or accuracy."""
    slack: float = 0.05
    """Added to both losses of the ratio, so that it is tame where the full model's is next to nothing."""
    ranking: str = "last-token"
    """Which visual tokens are kept: last-token, question-mean, uniform, random, ... (`policies.ranking`)."""
    first_layer: int = 2
    """The first layer (0-based) that may keep less."""
    random_trials: int | None = None
    """Random schedules beside the search; as many as it made where none is given."""
    threshold: float = 0.003
    """vtw: largest mean KL divergence of the next token, in nats."""
    compare: bool = False
    """Instead of one search: every method at every budget of --budgets, judged on the test samples."""
    budgets: tuple[float, ...] = BUDGETS
    """--compare: shares of the full model's prefill FLOPs."""
    methods: tuple[str, ...] = ()
    """--compare: some of the methods only (search/methods.py lists them)."""
    test_data: str | None = None
    """--compare: where the test samples come from; default: --data."""
    test_split: str = "test"
    """--compare: their split; they must share no sample and no picture with the calibration samples."""
    test_limit: int | None = 500
    """--compare: at most so many test samples."""
    out: Path = Path("schedule")
    """Folder of the policy, its trial log (records.jsonl) and the storage."""
    storage: str | None = None
    """Where trials are shared: a .journal or .db file, or postgresql://...; default: study.journal in --out."""
    lease: float = 1800.0
    """Seconds after which the trial of a silent worker on another machine is made again."""
    batch_size: int = 16
    """Samples a batch."""
    max_new_tokens: int = 32
    """Longest own answer, in tokens."""
    memory: float = 4.0
    """GiB of states kept in memory between trials; more go to a temporary folder."""
    seed: int = 0
    """Seed of data, random schedules and suggestions."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""

    def __post_init__(self) -> None:
        PSigmoidOptions.__post_init__(self)
        GSearchOptions.__post_init__(self)


METHODS = {"eas": "lookaway.cli.search_eas"}
"""Methods with a module of their own; all others are this one's."""


def run(options: Options) -> dict[str, Any]:
    from ..data import load_samples
    from ..hosts.loading import load_model
    from ..policies.ranking import ranking_named
    from ..search.samples import check_disjoint, choose_target, targets, with_images
    from ..search.session import check_out, trial_facts
    from ..search.storage import open_storage
    from ..search.study import Board
    from .common import progress
    from .search_compare import compare_all

    # 1. Whatever can be refused without a model is.
    check_out(options.out)
    ranking_named(options.ranking)
    samples = with_images(load_samples(options.data, options.split, options.limit, options.seed))
    test = []
    if options.compare:
        found = load_samples(options.test_data or options.data, options.test_split, options.test_limit, options.seed)
        test = with_images(found)
        check_disjoint(samples, test)
    if options.method == "vtw" and not options.compare:
        return _withdrawal(options, samples)
    target = choose_target(samples, options.measure)
    storage = open_storage(options.storage or options.out / "study.journal")
    # 2. The trials depend on these.
    model, processor = load_model(options.model, device=options.device)
    facts = {key: getattr(options, key) for key in ("measure", "slack", "ranking", "first_layer")}
    if options.method == "g-search" or options.compare:
        facts |= {field.name: getattr(options, field.name) for field in fields(GSearchOptions)}
        facts.pop("rounds")
    if options.method != "g-search" or options.compare:
        facts |= {key: getattr(options, key) for key in ("amplitude", "steepest", "flattest")}
    if not options.compare:
        facts |= {"budget": options.budget, "unit": options.unit}
    name = "compare" if options.compare else options.method
    facts = trial_facts(model, samples, target=target, **facts)
    board = Board(storage, name, options.seed, facts, options.lease)
    # 3. The full run, once.
    from ..search.judge import ModelJudge

    answers = targets(model, processor, samples, target, options.batch_size, options.max_new_tokens)
    with progress("full runs", len(samples)) as advance:
        judge = ModelJudge(
            model, processor, samples, answers, measure=options.measure, slack=options.slack, ranking=options.ranking,
            seed=options.seed, first_layer=options.first_layer, batch_size=options.batch_size,
            memory=int(options.memory * 2**30), progress=advance,
        )  # fmt: skip
    try:
        if options.compare:
            return compare_all(options, model, processor, judge, board, samples, test)
        return _search(options, model, judge, board, samples)
    finally:
        judge.close()


def _search(options: Options, model: Any, judge: Any, board: Any, samples: Any) -> dict[str, Any]:
    from ..anatomy.base import anatomy_of
    from ..evaluation.header import run_header
    from ..search.session import save, search, summary_of
    from .common import progress
    from .search_compare import parts

    sigmoid, greedy = parts(options)
    with progress(f"trials ({options.method})", _expected(options, judge)) as advance:
        result = search(
            judge, board, options.method, options.budget, options.unit, sigmoid, greedy, options.random_trials,
            lambda done: advance(1),
        )  # fmt: skip
    log = board.log()
    summary = summary_of(result, judge, samples, log)
    policy = judge.policy(result.found.schedule)
    object.__setattr__(policy, "base", anatomy_of(model).base)  # policies are frozen
    header = run_header("search", model, options.data, options, options.seed, options.model)
    saved = save(options.out, policy, summary, header, log)
    _show(result, judge, saved)
    return {"policy": str(saved), **{key: value for key, value in summary.items() if key != "samples"}}


def _withdrawal(options: Options, samples: Any) -> dict[str, Any]:
    from dataclasses import asdict

    from rich.console import Console

    from ..anatomy.base import anatomy_of
    from ..core.errors import DataError
    from ..evaluation.header import run_header
    from ..hosts.loading import load_model
    from ..policies.baselines.vtw import VTW
    from ..search.samples import fingerprint
    from ..search.session import save
    from ..search.vtw import find_withdrawal
    from .common import progress

    model, processor = load_model(options.model, device=options.device)
    with progress("divergence of all layers", len(samples)) as advance:
        found = find_withdrawal(model, processor, samples, options.threshold, options.batch_size, advance)
    if found.layer is None:
        raise DataError(
            f"No layer's divergence is below {options.threshold:g} (the least is "
            f"{min(found.divergence.values()):.4g}), so nothing may leave this model early. Raise --threshold."
        )
    policy = VTW(found.layer)
    object.__setattr__(policy, "base", anatomy_of(model).base)
    summary = {"method": "vtw", **asdict(found), "fingerprint": fingerprint(samples),
               "samples": [sample.id for sample in samples]}  # fmt: skip
    header = run_header("search", model, options.data, options, options.seed, options.model)
    saved = save(options.out, policy, summary, header, [])
    Console(highlight=False).print(
        f"all visual tokens leave before layer {found.layer} (divergence {found.divergence[found.layer]:.4g} on "
        f"{found.samples} samples)\nsaved {saved}; next: lookaway eval --policy {saved}"
    )
    return {"policy": str(saved), **summary}


def _expected(options: Options, judge: Any) -> int:
    """Trials to come, for the progress bar; a guess for G-Search."""
    own = options.trials
    if options.method == "g-search":
        layers = len(judge.span.layers[:: options.stride])
        steps = max(1, round(1 / options.resolution)).bit_length() + options.probes
        own = layers * (steps if options.form == "bisection" else options.layer_trials)
    return own if options.method == "random" else own + (options.random_trials or own)


def _show(result: Any, judge: Any, saved: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("schedule", "trials", judge.measure, "loss", "same answer", "right", "FLOPs", "mean keep", box=None)
    rows = [(result.method, result.found)] if result.method == "random" else [
        (result.method, result.found), ("random schedules", result.random)
    ]  # fmt: skip
    for name, found in rows:
        v = found.verdict
        table.add_row(name, str(found.trials), f"{v.effectiveness:.4f}", f"{v.loss:.4f}", f"{v.agreement:.1%}",
                      f"{v.accuracy:.1%}", f"{v.flops_share:.1%}", f"{v.tokens_share:.1%}")  # fmt: skip
    console = Console(highlight=False)
    console.print(table)
    console.print("keeps  " + " ".join(f"{rate:.2f}" for rate in result.found.schedule.rates))
    work = judge.work
    console.print(f"{work.trials} trials made here cost {work.ratio:.0%} of what they would from the image.")
    for note in result.notes:
        console.print(f"[yellow]note:[/yellow] {note}")
    console.print(f"saved {saved}; next: lookaway eval --policy {saved}")
