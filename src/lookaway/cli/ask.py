"""`lookaway ask`: one question about one image, with the policy and without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .common import plain_console
from .model_options import PublishedModel
from .options import argument


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
    the default model's own gates, or none for other models."""
    exit_at: int | None = None
    """Instead of a policy: remove the visual tokens before this decoder layer."""
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
    from .common import choose_policy, fit_to

    if not options.image:
        raise DataError("No image: give one with --image FILE.")
    policy = choose_policy(options.model, options.policy, options.exit_at, options.allow_other_model)
    content: list[dict[str, str]] = [{"type": "image"} for _ in options.image]
    sample = la.Sample(
        id="ask",
        messages=[{"role": "user", "content": [*content, {"type": "text", "text": options.question}]}],
        images=options.image,
    )
    model, processor = load_model(options.model, device=options.device, **options.published)
    policy, other = fit_to(model, policy, options.allow_other_model)
    inputs = encode(processor, [sample], device=model.device).inputs
    width = inputs["input_ids"].shape[1]

    def answer() -> str:
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=options.max_new_tokens)
        return str(processor.batch_decode(ids[:, width:], skip_special_tokens=True)[0]).strip()

    with la.attach(model, policy) as attached:
        text = answer()
    trace = attached.trace
    cost, exit_layer = trace.cost(), trace.exit_layers[0]
    found: dict[str, Any] = {
        "question": options.question,
        "answer": text,
        "allowed_other_model": other,
        "exit_layer": exit_layer,
        "num_layers": trace.shape.num_layers,
        "visual_tokens": trace.initial_visual_tokens[0],
        "mean_visual_tokens": cost.visual_tokens,
        "prefill_flops_share": cost.flops_share,
        "kv_bytes_share": cost.kv_share,
    }
    if options.compare:
        found["answer_without"] = answer()
    show(found)
    return found


def show(found: dict[str, Any]) -> None:
    """Print the answer, and a line or two about the looking away."""
    console = plain_console()
    console.print(found["answer"], style="bold")
    layers, tokens = found["num_layers"], found["visual_tokens"]
    flops, kv = 1 - found["prefill_flops_share"], 1 - found["kv_bytes_share"]
    saved = f"prefill {flops:.0%} fewer FLOPs, KV cache {kv:.0%} smaller"
    if found["exit_layer"] is not None:
        console.print(
            f"looked away before layer {found['exit_layer']} of {layers}: {tokens} visual tokens left the decoder; "
            f"{saved}"
        )
    elif found["mean_visual_tokens"] < tokens:
        mean = found["mean_visual_tokens"]
        console.print(f"looked at {mean:.0f} of {tokens} visual tokens in the mean layer of {layers}; {saved}")
    else:
        console.print(f"looked at {tokens} visual tokens through all {layers} layers: nothing saved")
    if "answer_without" in found and found["answer_without"] != found["answer"]:
        console.print(f"without the policy the model answers: {found['answer_without']}")
