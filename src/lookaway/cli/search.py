"""`lookaway search`: keep schedules from a model and samples, beside random ones, or all methods at equal cost."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from ..search.schedules.g_search import GSearchOptions
from .search_options import Options

__all__ = ["METHODS", "Options", "run"]

METHODS = {"eas": "lookaway.cli.search_eas", "shortv": "lookaway.cli.search_shortv"}
"""Methods with a module of their own; all others are this one's."""


def run(options: Options) -> dict[str, Any]:
    from ..anatomy.find import anatomy_of
    from ..core.provenance import sample_facts
    from ..data import load_samples
    from ..models.loading import load_model
    from ..policies.ranking import ranking_named
    from ..search.schedules.session import check_out, trial_facts
    from ..search.trials.queue import TrialQueue
    from ..search.trials.samples import check_disjoint, choose_target, targets, with_images
    from ..search.trials.storage import open_storage
    from .progress import progress
    from .search_compare import compare_all
    from .settings import tell_settings

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
    model, processor = load_model(options.model, device=options.device, **options.published)
    anatomy_of(model).require_inside("A schedule of visual tokens per layer")
    tell_settings(model, options.batch_size)
    facts = {key: getattr(options, key) for key in ("measure", "slack", "ranking", "first_layer")}
    if options.method == "g-search" or options.compare:
        facts |= {field.name: getattr(options, field.name) for field in fields(GSearchOptions)}
        facts.pop("rounds")
    if options.method != "g-search" or options.compare:
        facts |= {key: getattr(options, key) for key in ("amplitude", "steepest", "flattest")}
    if not options.compare:
        facts |= {"budget": options.budget, "unit": options.unit}
    name = "compare" if options.compare else options.method
    facts = trial_facts(model, processor, samples, target=target, **facts)
    if target == "own":
        facts["max_new_tokens"] = options.max_new_tokens
    if test:
        facts["test_samples"] = sample_facts(test)
    queue = TrialQueue(storage, name, options.seed, facts, options.lease, options.fresh)
    # 3. The full run, once.
    from ..search.trials.schedule_evaluator import ModelScheduleEvaluator

    phases = ("own answers", "states") if target == "own" else ("states",)
    with progress("full model", len(samples), phases) as advance:
        answers = targets(model, processor, samples, target, options.batch_size, options.max_new_tokens, advance)
        evaluator = ModelScheduleEvaluator(
            model, processor, samples, answers, measure=options.measure, slack=options.slack, ranking=options.ranking,
            seed=options.seed, first_layer=options.first_layer, batch_size=options.batch_size,
            memory=int(options.memory * 2**30), progress=advance,
        )  # fmt: skip
    try:
        if options.compare:
            return compare_all(options, model, processor, evaluator, queue, samples, test, facts)
        return _search(options, model, evaluator, queue, samples, facts)
    finally:
        evaluator.close()


def _search(options: Options, model: Any, evaluator: Any, queue: Any, samples: Any, facts: Any) -> dict[str, Any]:
    from ..anatomy.find import anatomy_of
    from ..evaluation.header import run_header
    from ..search.schedules.session import save, search, summary_of
    from .progress import progress
    from .search_compare import parts

    sigmoid, greedy = parts(options)
    with progress(f"trials ({options.method})", _expected(options, evaluator)) as advance:
        result = search(
            evaluator, queue, options.method, options.budget, options.unit, sigmoid, greedy, options.random_trials,
            lambda done: advance(1),
        )  # fmt: skip
    log = queue.log()
    summary = summary_of(result, evaluator, samples, log)
    policy = evaluator.policy(result.found.schedule)
    policy = policy.with_base(anatomy_of(model).identity)
    header = run_header("search", model, options.data, options, options.seed, options.model, facts)
    saved = save(options.out, policy, summary, header, log)
    _show(result, evaluator, saved)
    return {"policy": str(saved), **{key: value for key, value in summary.items() if key != "samples"}}


def _withdrawal(options: Options, samples: Any) -> dict[str, Any]:
    from dataclasses import asdict

    from ..core.errors import DataError
    from ..models.loading import load_model
    from ..policies.baselines.vtw import VTW
    from ..search.schedules.vtw import find_withdrawal
    from .common import plain_console
    from .progress import progress
    from .search_saving import save_measured
    from .settings import tell_settings

    model, processor = load_model(options.model, device=options.device, **options.published)
    tell_settings(model, options.batch_size)
    with progress("divergence of all layers", len(samples)) as advance:
        found = find_withdrawal(model, processor, samples, options.threshold, options.batch_size, advance)
    if found.layer is None:
        raise DataError(
            f"No layer's divergence is below {options.threshold:g} (the least is "
            f"{min(found.divergence.values()):.4g}), so nothing may leave this model early. Raise --threshold."
        )
    summary = {"method": "vtw", **asdict(found), "samples": [sample.id for sample in samples]}
    saved, summary = save_measured(options, model, processor, samples, VTW(found.layer), summary)
    plain_console().print(
        f"all visual tokens leave before layer {found.layer} (divergence {found.divergence[found.layer]:.4g} on "
        f"{found.samples} samples)\nsaved {saved}; next: lookaway eval --policy {saved}"
    )
    return {"policy": str(saved), **summary}


def _expected(options: Options, evaluator: Any) -> int:
    """Trials to come, for the progress bar; a guess for G-Search."""
    own = options.trials
    if options.method == "g-search":
        layers = len(evaluator.span.layers[:: options.stride])
        steps = max(1, round(1 / options.resolution)).bit_length() + options.probes
        own = layers * (steps if options.form == "bisection" else options.layer_trials)
    return own if options.method == "random" else own + (options.random_trials or own)


def _show(result: Any, evaluator: Any, saved: Path) -> None:
    from .common import plain_console, print_note
    from .tables import show_table

    rows = [(result.method, result.found)] if result.method == "random" else [
        (result.method, result.found), ("random schedules", result.random)
    ]  # fmt: skip
    cells = []
    for name, found in rows:
        v = found.verdict
        cells.append((name, str(found.trials), f"{v.effectiveness:.4f}", f"{v.loss:.4f}", f"{v.agreement:.1%}",
                      f"{v.accuracy:.1%}", f"{v.flops_share:.1%}", f"{v.tokens_share:.1%}"))  # fmt: skip
    console = plain_console()
    columns = ("schedule", "trials", f"as good, by {evaluator.measure}", "mean loss", "same answer", "right", "FLOPs",
               "visual tokens")  # fmt: skip
    show_table(columns, cells, console=console)
    console.print("keeps  " + " ".join(f"{rate:.2f}" for rate in result.found.schedule.rates))
    work = evaluator.work
    console.print(f"{work.trials} trials made here cost {work.ratio:.0%} of what they would from the image.")
    for note in result.notes:
        print_note(console, note)
    console.print(f"saved {saved}; next: lookaway eval --policy {saved}")
