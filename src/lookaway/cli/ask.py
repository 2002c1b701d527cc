"""`lookaway ask`: one question about one image, with the policy and without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.layer_counts import processed
from .common import plain_console
from .model_options import PublishedModel
from .options import argument

if TYPE_CHECKING:
    from ..core.record import Trace


@dataclass(frozen=True, kw_only=True)
class Options(PublishedModel):
    """Ask one question about one image; print the answer, where the visual tokens left, and what that saved."""

    question: str = argument()
    """The question."""
    image: tuple[str, ...] = ()
    """Image file; give it once for each image, in the order in which the prompt shows them."""
    model: str = "lookaway-mini"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    policy: str | None = None
    """Folder, hub id or YAML file of a policy, or several joined by commas: one after another (`la.chain`). Without it
    the default model's own gates; other models answer without a policy."""
    exit_at: int | None = None
    """Instead of a policy: remove the visual tokens before this decoder layer."""
    draft: str | None = None
    """Guess answer tokens and check several in one pass: a number of decoder layers (early exit), or a twig's folder,
    hub id or YAML file. The answer stays what it is without (docs/methods/twig.md)."""
    max_new_tokens: int = 64
    """Longest answer, in tokens."""
    compare: bool = True
    """Also answer without the policy, to see whether the answer is the same."""
    allow_other_model: bool = False
    """Use the policy although it was made for another model (other weights)."""
    device: str | None = None
    """cpu, cuda, cuda:1, ...; default: a GPU if there is one."""


def run(options: Options) -> dict[str, Any]:
    import lookaway as la

    from ..core.errors import DataError
    from ..models.encoding import encode
    from ..models.loading import load_model
    from .common import choose_draft, choose_policy, fit_to

    if not options.image:
        raise DataError("No image: give one with --image FILE.")
    policy = None
    if options.policy is not None or options.exit_at is not None or options.model.startswith("lookaway-mini"):
        policy = choose_policy(options.model, options.policy, options.exit_at, options.allow_other_model)
    draft = None if options.draft is None else choose_draft(options.draft)
    if policy is None and draft is not None:
        policy = la.KeepAll()
    content: list[dict[str, str]] = [{"type": "image"} for _ in options.image]
    sample = la.Sample(
        id="ask",
        messages=[{"role": "user", "content": [*content, {"type": "text", "text": options.question}]}],
        images=options.image,
    )
    model, processor = load_model(options.model, device=options.device, **options.published)
    other = list[str]()
    if policy is not None:
        policy, other = fit_to(model, policy, options.allow_other_model)
    inputs = encode(processor, [sample], device=model.device).inputs
    width = inputs["input_ids"].shape[1]

    def answer() -> str:
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=options.max_new_tokens)
        return str(processor.batch_decode(ids[:, width:], skip_special_tokens=True)[0]).strip()

    if policy is None:
        found: dict[str, Any] = {"question": options.question, "answer": answer(), "model": options.model}
        show_without(found)
        return found
    with la.attach(model, policy, options.allow_other_model, draft) as attached:
        text = answer()
    found = {"question": options.question, "answer": text, "allowed_other_model": other}
    found |= _what_happened(attached.trace)
    if options.compare:
        found["answer_without"] = answer()
    show(found)
    return found


def _what_happened(trace: Trace) -> dict[str, Any]:
    """Of the batch's one row, as plain values."""
    cost = trace.cost()
    return {
        "exit_layer": trace.exit_layers[0],
        "num_layers": trace.shape.num_layers,
        "visual_tokens": trace.initial_visual_tokens[0],
        "mean_visual_tokens": cost.visual_tokens,
        "layer_visual_tokens": [layer[0] for layer in trace.visual_tokens],
        "skipped_attention": list(trace.skipped),
        "looked_again": trace.looked_again[0],
        "prefill_flops_share": cost.flops_share,
        "kv_bytes_share": cost.kv_share,
        "drafted_tokens": trace.drafted,
        "accepted_tokens": trace.accepted,
        "checks": trace.checks,
    }


def show(found: dict[str, Any]) -> None:
    """Print the answer, what the layers processed of the image, and what that saved."""
    console = plain_console()
    console.print(found["answer"], style="bold")
    words = processed(found["layer_visual_tokens"], found["visual_tokens"])
    if found["skipped_attention"]:
        words += f"; skipped the attention of layers {', '.join(map(str, found['skipped_attention']))}"
    if found["looked_again"]:
        words += "; unsure after a first pass, it looked again"
    if found["drafted_tokens"]:
        words += f"; {found['accepted_tokens']} of {found['drafted_tokens']} guessed tokens accepted"
    flops, kv = found["prefill_flops_share"], found["kv_bytes_share"]
    saved = f"prefill {_change(flops, 'FLOPs')}, KV cache {_change(kv, 'bytes')}"
    console.print(f"{words}: {saved if (flops, kv) != (1, 1) else 'nothing saved'}")
    if "answer_without" in found and found["answer_without"] != found["answer"]:
        console.print(f"without the policy the model answers: {found['answer_without']}")


def show_without(found: dict[str, Any]) -> None:
    """The answer of a model without a policy, and how to get one."""
    console = plain_console()
    console.print(found["answer"], style="bold")
    console.print("answered without a policy: none was given. --exit-at LAYER tries one without training.")
    command = f"lookaway fit --model {found['model']} --data DATA"
    console.print(f"next: {command} finds a policy that keeps the answers.", soft_wrap=True)


def _change(share: float, unit: str) -> str:
    """0.4 -> '60% fewer FLOPs'; a second look may also cost more, or leave as much in the cache."""
    if round(share, 2) == 1:
        return f"as many {unit}"
    return f"{1 - share:.0%} fewer {unit}" if share <= 1 else f"{share - 1:.0%} more {unit}"
