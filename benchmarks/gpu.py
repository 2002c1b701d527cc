"""All measurements of a GPU in one run of set length; what it found is written after each part.

    PYTHONPATH=src python benchmarks/gpu.py [--minutes 8] [--out benchmarks/results/gpu.json]
    PYTHONPATH=src python benchmarks/gpu.py --tiny --out FILE    # the same parts on a small shape, on a CPU too

Parts, in order: removal against masking (bf16 and fp32, SDPA and FlashAttention 2), host reads of a prefill by the
profiler, what a read of a gate's decision costs, decoding with a static cache, then the shapes' times from batch 1 to
32. A part that cannot run says why; one
that would start after the time is up is listed as not run. Sharding over two devices is not among them yet.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import lookaway as la
from lookaway.core.files import write_json
from lookaway.evaluation.header import run_header
from lookaway.evaluation.latency import measure
from lookaway.evaluation.speed import measure_speed
from lookaway.models.shapes.published import build_shape

SHAPES = ("llava-1.5-7b", "qwen2.5-vl-7b")
READS = ("Memcpy DtoH", "aten::_local_scalar_dense", "cudaStreamSynchronize")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--tiny", action="store_true", help="a small shape, one round: does the script run?")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.tiny:
        parser.error("no GPU is here; --tiny runs the same parts on a small shape")
    until = time.perf_counter() + 60 * options.minutes
    found: dict[str, Any] = {"parts": {}, "not_run": []}
    for name, part in parts(device, options.tiny).items():
        if time.perf_counter() > until:
            found["not_run"].append(name)
            continue
        start = time.perf_counter()
        try:
            result = part()
        except Exception as error:  # one part must not cost the others; the result says what happened
            result = {"failed": f"{type(error).__name__}: {error}"}
        if "run" not in found:
            found["run"] = _header(device, options)
        found["parts"][name] = {**result, "seconds": round(time.perf_counter() - start, 1)}
        print(name, str(found["parts"][name])[:300], flush=True)
        write_json(options.out, found)
    write_json(options.out, found)


def parts(device: str, tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured, by name, the most important first."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    small = 0.01 if tiny else 0.25
    for dtype in ("float32", "bfloat16"):
        for attention in ("sdpa", "flash_attention_2"):
            found[f"removal against masking, {dtype}, {attention}"] = lambda dtype=dtype, attention=attention: (
                correctness(device, small, dtype, attention)
            )
    found["host reads of a prefill"] = lambda: reads(device, small)
    found["waits for gates"] = lambda: waits(device, 0.01 if tiny else 1.0, 1 if tiny else 9)
    found["static cache"] = lambda: static_cache(device, small)
    for shape in SHAPES[:1] if tiny else SHAPES:
        for size in (1,) if tiny else (1, 8, 32):
            for attention in ("sdpa", "flash_attention_2"):
                found[f"{shape}, batch of {size}, {attention}"] = lambda shape=shape, size=size, attention=attention: (
                    times(device, shape, size, attention, tiny)
                )
    return found


def correctness(device: str, scale: float, dtype: str, attention: str) -> dict[str, Any]:
    """Largest difference of the first logits between removal and its reference, and the largest logit."""
    if reason := _without(attention, dtype, device):
        return {"skipped": reason}
    shaped = build_shape(SHAPES[0], scale, dtype=dtype, device=device, attention=attention)
    plain = build_shape(SHAPES[0], scale, dtype=dtype, device=device, attention="sdpa")  # masks need SDPA
    inputs, depth, rows = shaped.inputs(2, 16), la.anatomy(shaped.model).num_layers, {}
    policies = {"exit at half": la.ExitAt(depth // 2), "half from layer 2": la.UniformKeep(0.5, layer=2),
                "a quarter before the decoder": la.UniformKeep(0.25, layer=0),
                "rows exit apart": la.ExitAt([1, None])}  # fmt: skip
    for name, policy in policies.items():
        with torch.no_grad(), la.attach(shaped.model, policy):
            fast = shaped.model(**inputs, logits_to_keep=1).logits[:, -1].float()
        with torch.no_grad(), la.reference(plain.model, policy):
            slow = plain.model(**inputs, logits_to_keep=1).logits[:, -1].float()
        rows[name] = {"difference": (fast - slow).abs().max().item(), "largest": slow.abs().max().item()}
    return {"policies": rows}


def reads(device: str, scale: float) -> dict[str, Any]:
    """Events of the profiler in which the host waits for a number, in one prefill: without a policy, and with."""
    from torch.profiler import ProfilerActivity, profile

    shaped = build_shape(SHAPES[0], scale, device=device)
    inputs, depth, counts = shaped.inputs(1, 16), la.anatomy(shaped.model).num_layers, {}
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    for name, policy in {"none": None, "exit": la.ExitAt(depth // 2), "idle": la.KeepAll()}.items():
        with torch.no_grad(), la.attach(shaped.model, policy) if policy else torch.no_grad():
            shaped.model(**inputs, logits_to_keep=1)
            with profile(activities=activities) as seen:
                shaped.model(**inputs, logits_to_keep=1)
        counts[name] = {read: sum(event.count for event in seen.key_averages() if read in event.key) for read in READS}
    return {"counts": counts}


def waits(device: str, scale: float, repeats: int) -> dict[str, Any]:
    """Seconds of a prefill with a gate at every layer, none of which fires, by how many decisions are read at once."""
    shaped = build_shape(SHAPES[0], scale, device=device)
    inputs, anatomy = shaped.inputs(1, 64), la.anatomy(shaped.model)
    layers = range(anatomy.first_prunable_layer, anatomy.num_layers)
    gates = la.ExitGates(anatomy.shape.hidden_size, layers, norm="layer")

    def prefill(policy: Any) -> Callable[[], None]:
        def run() -> None:
            with la.attach(shaped.model, policy):
                shaped.model(**inputs, use_cache=True, logits_to_keep=1)

        return run

    ways = {every: prefill(la.VisualExit(gates, 0.9999999, read_every=every)) for every in (1, 2, len(layers))}
    times = measure(
        {f"read_every={every}": run for every, run in ways.items()}, repeats=repeats, warmup=1, device=device
    )
    return {"candidate layers": len(layers), "prefill": {name: vars(timing) for name, timing in times.items()}}


def static_cache(device: str, scale: float) -> dict[str, Any]:
    """Tokens and seconds of generating with a static cache under an exit, beside the growing cache."""
    shaped = build_shape(SHAPES[0], scale, device=device)
    inputs, depth, rows, answers = shaped.inputs(1, 16), la.anatomy(shaped.model).num_layers, {}, []
    for cache in (None, "static"):
        with torch.no_grad(), la.attach(shaped.model, la.ExitAt(depth // 2)):
            for _ in range(2):  # the first compiles
                start = time.perf_counter()
                out = shaped.model.generate(
                    **inputs, do_sample=False, min_new_tokens=16, max_new_tokens=16, cache_implementation=cache
                )
                out = out.cpu()
                rows[cache or "growing"] = time.perf_counter() - start
        answers.append(out)
    return {"seconds of 16 tokens": rows, "same tokens": torch.equal(*answers)}


def times(device: str, shape: str, size: int, attention: str, tiny: bool) -> dict[str, Any]:
    """The rows of `lookaway bench` for this shape."""
    if reason := _without(attention, "bfloat16", device):
        return {"skipped": reason}
    shaped = build_shape(shape, 0.01 if tiny else 1.0, device=device, attention=attention)
    depth = la.anatomy(shaped.model).num_layers
    exits = (2,) if tiny else (depth // 4, depth // 2, 3 * depth // 4)
    rows = measure_speed(
        shaped.model, shaped.inputs(size, 64), exits=exits, policies={"25% before": la.UniformKeep(0.25, layer=0)},
        new_tokens=(2,) if tiny else (32,), repeats=1 if tiny else 5, warmup=1,
    )  # fmt: skip
    return {"timings": [vars(row) for row in rows]}


def _without(attention: str, dtype: str, device: str) -> str:
    """Why this attention cannot run here; empty: it can."""
    if attention != "flash_attention_2":
        return ""
    if device != "cuda":
        return "FlashAttention 2 needs a GPU"
    if dtype == "float32":
        return "FlashAttention 2 has no fp32"
    return "" if importlib.util.find_spec("flash_attn") else "the package flash-attn is not installed"


def _header(device: str, options: argparse.Namespace) -> dict[str, Any]:
    model = build_shape(SHAPES[0], 0.01, device=device).model
    return run_header(
        "gpu", model, "synthetic", {name: str(value) for name, value in vars(options).items()}, 0, SHAPES[0]
    )


if __name__ == "__main__":
    main()
