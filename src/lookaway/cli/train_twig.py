"""`lookaway train --method twig`: a few layers behind an early one that say which visual tokens stay."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..training.twig_training import TwigOptions
from .model_options import PublishedModel


@dataclass(frozen=True, kw_only=True)
class Options(TwigOptions, PublishedModel):
    """Train a twig on your data: a few decoder layers behind an early one; the model itself is not changed."""

    method: Literal["twig"] = "twig"
    """What to train; twig: a learned ranking (docs/methods/twig.md); dyvte: visual-token exit; eas: skipped
    attentions."""
    model: str = "lookaway-mini-plain"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    data: str = "mini"
    """mini, scenes, easy-vqa, or a file or folder of your own (docs/data.md)."""
    split: str = "train"
    """train; or all of your own file."""
    limit: int | None = 2000
    """At most this many samples."""
    target: Literal["answer", "own"] = "answer"
    """answer: the ground truth; own: the model's own greedy answer."""
    max_new_tokens: int = 32
    """Longest own answer, in tokens."""
    answer_batch: int = 16
    """Samples per model run while own answers are made."""
    out: Path = Path("out/twig")
    """Folder of the policy; also for checkpoints and records.jsonl; the same command continues after a kill."""
    fresh: bool = False
    """Start again: remove what another run left in --out."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""


def run(options: Options) -> dict[str, Any]:
    from ..anatomy.find import anatomy_of
    from ..core.processes import sharing, started
    from ..data import load_samples
    from ..models.answers import own_answers
    from ..models.loading import load_model
    from ..training.exit_labels import with_images
    from ..training.trainer import training_facts
    from ..training.twig_training import cost_in_prefills, for_each_process, train_twig
    from .common import plain_console, tell
    from .progress import progress
    from .recorded_training import recorded_training
    from .settings import tell_settings

    chosen = TwigOptions(**{field.name: getattr(options, field.name) for field in fields(TwigOptions)}).filled()
    samples = with_images(load_samples(options.data, options.split, options.limit, options.seed))
    for_each_process(chosen, len(samples), started().count)  # before anything long
    model, processor = load_model(options.model, device=options.device, **options.published)
    tell_settings(model, chosen.batch_size)
    if options.target == "own":
        size = options.answer_batch
        batches = [samples[first : first + size] for first in range(0, len(samples), size)]
        with sharing(started()) as group, progress("own answers", len(samples)) as advance:
            answers = own_answers(
                model, processor, batches, options.max_new_tokens, options.out / "answers.jsonl", advance
            )
            group.close()  # the Trainer makes its own
        samples = [replace(s, answer=processor.tokenizer.decode(answers[s.id])) for s in samples]
    share = cost_in_prefills(chosen, anatomy_of(model).num_layers)
    tell(f"A sample costs {share:.2f} prefills of the decoder; K = {chosen.start}, T = {chosen.depth}.")
    facts = training_facts(model, processor, samples, chosen)
    found = recorded_training(
        "train", options, model, facts,
        lambda reach: train_twig(model, processor, samples, options.out, chosen, options.fresh, reach),
        lambda found: found.policy.save_pretrained(options.out),
    )  # fmt: skip
    if found is None:
        return {}
    console, summary, saved = plain_console(), found.summary, options.out
    console.print(
        f"{summary['steps']} steps on {summary['samples']} samples, {summary['cost_in_prefills']} prefills of the "
        f"decoder; {summary['trained_weights']:,} weights, saved in bfloat16"
    )
    losses = ", ".join(f"{loss:.2f}" for loss in summary["loss_by_thousand"])
    console.print(f"mean loss on answers, thousand samples by thousand: {losses}")
    if summary["packed_slots"] is not None:
        console.print(f"samples shared rows: the twig ran over {summary['packed_slots']:.0%} of the padded slots")
    console.print(f"saved {saved}; next: lookaway eval --policy {saved}")
    return {"policy": str(saved), **{k: v for k, v in summary.items() if k != "options"}}
