"""What `lookaway analyze` needs: peak memory of one sample of 2,000 tokens, part by part, and of decoders cut short.

    python benchmarks/analyze_memory.py [--tokens 2000] [--case pictures] [--json FILE]

Two inputs of that length: `pictures` (as many as fit, and a question) and `text` (one picture and a long question).
The peak is the process's own resident memory (Linux, reset before each part), the weights among it; `above` is what the
part added. Aim: at most 4 GiB, and no growth with depth for what is seen of attention maps.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import torch

MIB = 2**20


def resident(name: str) -> int:
    """Bytes of a line of /proc/self/status: VmRSS (now) or VmHWM (peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def measured(part: Any) -> dict[str, float]:
    """Run `part()` and say what it took."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = resident("VmRSS"), time.perf_counter()
    part()
    peak = resident("VmHWM")
    return {"peak_mib": round(peak / MIB), "above_mib": round((peak - before) / MIB),
            "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip


def sample_of(processor: Any, case: str, tokens: int) -> Any:
    """A question about pictures with that many tokens, or up to one picture's tokens fewer."""
    from PIL import Image

    from lookaway.core.record import Sample
    from lookaway.models.encoding import encode

    def made(pictures: int, words: int) -> Sample:
        images = [Image.new("RGB", (112, 112), (20 * n % 256, 80, 200 - 9 * n)) for n in range(pictures)]
        question = "what color is the circle?" + " blue" * words
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
        return Sample("long", [{"role": "user", "content": content}], tuple(images), "blue")

    def length(sample: Sample) -> int:
        return int(encode(processor, [sample]).inputs["input_ids"].shape[1])

    one, two = length(made(1, 0)), length(made(2, 0))
    pictures = 1 + (tokens - one) // (two - one) if case == "pictures" else 1
    return made(pictures, tokens - length(made(pictures, 0)))


def parts_of(model: Any, processor: Any, sample: Any) -> dict[str, Any]:
    """The parts of a study, each a function that runs one."""
    from lookaway.analysis.collect import StudyOptions, _flows, exit_outcomes, study_sample
    from lookaway.analysis.knockout import default_width, sliding_windows
    from lookaway.anatomy.find import anatomy_of
    from lookaway.engine.observe.knockout import knockout_outcomes
    from lookaway.engine.observe.saliency import image_saliency
    from lookaway.models.encoding import encode

    anatomy = anatomy_of(model)
    prompt, said = encode(processor, [sample]), encode(processor, [sample], answers=["blue"])
    windows = sliding_windows(anatomy.num_layers, default_width(anatomy.num_layers))
    return {
        "flow": lambda: _flows(anatomy, prompt),
        "saliency": lambda: image_saliency(model, said),
        "knockouts": lambda: knockout_outcomes(model, said, windows),
        "exits": lambda: exit_outcomes(model, said, "answer"),
        "whole study": lambda: study_sample(model, processor, sample, StudyOptions(max_new_tokens=4)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lookaway-mini")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--case", choices=("pictures", "text"), default="pictures")
    parser.add_argument("--parts", nargs="*", help="default: all")
    parser.add_argument("--depths", type=int, nargs="*", default=(10, 20, 30), help="of the flow probe's own test")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    from lookaway.models.encoding import encode
    from lookaway.models.loading import load_model

    model, processor = load_model(options.model, device="cpu")
    sample = sample_of(processor, options.case, options.tokens)
    found: dict[str, Any] = {
        "model": options.model, "case": options.case, "torch": torch.__version__, "machine": platform.machine(),
        "tokens": int(encode(processor, [sample]).inputs["input_ids"].shape[1]), "pictures": len(sample.images),
        "weights_mib": round(sum(p.numel() * p.element_size() for p in model.parameters()) / MIB), "parts": {},
        "flow_by_depth": {},
    }  # fmt: skip
    decoder, layers = model.model.language_model, model.model.language_model.layers
    parts_of(model, processor, sample)["flow"]()  # whatever is made once is made
    for depth in options.depths:
        decoder.layers = layers[:depth]
        decoder.config.num_hidden_layers = depth
        found["flow_by_depth"][str(depth)] = measured(parts_of(model, processor, sample)["flow"])
        print(f"{'flow, ' + str(depth) + ' layers':<16}", found["flow_by_depth"][str(depth)], flush=True)
    decoder.layers = layers
    decoder.config.num_hidden_layers = len(layers)
    for name, part in parts_of(model, processor, sample).items():
        if not options.parts or name in options.parts:
            found["parts"][name] = measured(part)
            print(f"{name:<16}", found["parts"][name], flush=True)
    if options.json:
        from lookaway.core.files import write_json

        write_json(options.json, found)


if __name__ == "__main__":
    main()
