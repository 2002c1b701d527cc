"""What converting a published checkpoint holds in memory, as a share of its largest weight file.

    python benchmarks/convert_memory.py [--megabytes 160] [--out FILE.json]

A random LLaVA-1.5 in its authors' layout, two weight files of that size, is made in a temporary folder, once as `.bin`
and once as safetensors, and converted while a thread watches this process's resident memory (Linux). Aim: below 1.2.
"""

import argparse
import json
import shutil
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import save_file

from lookaway.core.files import write_json
from lookaway.models.layouts.convert import convert
from lookaway.models.layouts.detection import plan_for
from lookaway.models.layouts.plan import checked_pieces

GOLDEN = Path(__file__).parents[1] / "tests" / "models" / "golden"
HIDDEN, INNER = 1024, 2816


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=160)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/convert-memory.json"))
    options = parser.parse_args()
    found = {}
    for kind in ("bin", "safetensors"):
        with tempfile.TemporaryDirectory() as folder:
            source = make(Path(folder) / "source", options.megabytes, kind)
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # none of `make`'s freed memory to reuse
                found[kind] = fresh.submit(measured, source, Path(folder) / "target").result()
            print(kind, found[kind])
    write_json(options.out, found)


def measured(source: Path, target: Path) -> dict[str, float]:
    """Convert in this process; what was imported and planned before is not counted."""
    plan = plan_for(source, GOLDEN / "towers" / "openai" / "clip-vit-large-patch14-336")
    checked_pieces(plan)
    extra = watched(lambda: convert(plan, target))
    largest = plan.largest_shard
    return {"largest_file_bytes": largest, "extra_bytes": extra, "share": round(extra / largest, 3)}


def make(folder: Path, megabytes: int, kind: str) -> Path:
    """A checkpoint with two weight files of about that size each."""
    shutil.copytree(GOLDEN / "llava-v1.5-7b" / "checkpoint", folder, ignore=shutil.ignore_patterns("pytorch_model*"))
    config = json.loads((folder / "config.json").read_text())
    layer = 2 * (4 * HIDDEN**2 + 3 * HIDDEN * INNER)
    layers = max(2, round(2 * megabytes * 1e6 / layer))
    config |= {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers,
               "num_attention_heads": 8, "num_key_value_heads": 8}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (640, HIDDEN), "lm_head": (640, HIDDEN), "model.norm": (HIDDEN,),
              "model.mm_projector.0": (HIDDEN, 32), "model.mm_projector.2": (HIDDEN, HIDDEN)}  # fmt: skip
    for number in range(layers):
        block = f"model.layers.{number}."
        shapes |= {f"{block}self_attn.{part}_proj": (HIDDEN, HIDDEN) for part in "qkvo"}
        shapes |= {f"{block}mlp.{part}_proj": (INNER, HIDDEN) for part in ("gate", "up")}
        shapes |= {f"{block}mlp.down_proj": (HIDDEN, INNER), f"{block}input_layernorm": (HIDDEN,),
                   f"{block}post_attention_layernorm": (HIDDEN,)}  # fmt: skip
    tensors = {f"{name}.weight": torch.randn(shape).half() for name, shape in shapes.items()}
    tensors |= {f"model.mm_projector.{number}.bias": torch.randn(HIDDEN).half() for number in (0, 2)}
    stem, end, save = ("pytorch_model", "bin", torch.save) if kind == "bin" else ("model", "safetensors", save_file)
    names = sorted(tensors)
    index = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"{stem}-{number:05d}-of-00002.{end}"
        save({name: tensors[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / f"{stem}.{end}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def watched(work) -> int:
    """The most bytes of resident memory beyond those before."""
    before, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    work()
    done.set()
    thread.join()
    return peak - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
