"""What the labels of ALL exits of a sample cost, in full prefills: counted FLOPs of the decoder, and wall clock.

    python benchmarks/labels_cost.py [--questions 8] [--tokens 12] [--out benchmarks/labels_cost.json]

A random model with the default model's shape (30 layers, hidden 576, 196 visual tokens): weights do not change the
cost.
One prefill = one unpruned forward over prompt and answer of one sample, vision tower, projector and head included in
the wall clock, the decoder alone in the FLOPs. Aim: at most 2.6 prefills a sample.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from lookaway.anatomy.find import anatomy_of
from lookaway.engine.replay.exit_table import collect_exit_table

IMAGE, VISUAL = 5, 196


def model_like_the_default():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=192, intermediate_size=768, num_hidden_layers=5, num_attention_heads=3, image_size=112, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=VISUAL)
    torch.manual_seed(0)
    return LlavaForConditionalGeneration._from_config(config).eval()


class Batch:
    """`questions` questions of `tokens` tokens about each of `images` pictures, each with an answer of two tokens."""

    def __init__(self, images: int, questions: int, tokens: int) -> None:
        rows = images * questions
        words = torch.randint(10, 40000, (rows, tokens + 3))
        words[:, 0] = 1
        visual = torch.full((rows, VISUAL), IMAGE)
        ids = torch.cat([words[:, :1], visual, words[:, 1:]], dim=1)
        pixels = torch.randn(images, 3, 112, 112).repeat_interleave(questions, 0)
        self.inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
        self.answer_mask = torch.zeros_like(ids, dtype=torch.bool)
        self.answer_mask[:, -2:] = True
        self.samples = [type("Sample", (), {"id": str(i), "images": (0,)})() for i in range(rows)]

    def one_by_one(self):
        return [{name: value[i : i + 1] for name, value in self.inputs.items()} for i in range(len(self.samples))]


def counted(anatomy, function) -> int:
    """FLOPs of the decoder, with CPU attention, which torch's own table lacks."""

    def flash_on_cpu(query, key, value, *args, out_shape=None, **kwargs):
        return sdpa_flop_count(query, key, value)

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={attention: flash_on_cpu})
    total = 0
    with counter:
        hooks = []
        marks: list[int] = []
        for layer in anatomy.layers:
            hooks.append(layer.register_forward_pre_hook(lambda *_: marks.append(counter.get_total_flops())))
            hooks.append(layer.register_forward_hook(lambda *_: marks.append(counter.get_total_flops())))
        function()
        for hook in hooks:
            hook.remove()
    for before, after in zip(marks[::2], marks[1::2], strict=True):
        total += after - before
    return total


def seconds(function, repeats: int = 3) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, default=8, help="questions about one image")
    parser.add_argument("--tokens", type=int, default=12, help="tokens of a question")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = model_like_the_default()
    anatomy = anatomy_of(model)
    lines = []
    for name, images, questions, share in (
        ("alone", 1, 1, False),
        ("one question an image", 1, 1, True),
        (f"{options.questions} questions an image", 1, options.questions, True),
    ):
        batch = Batch(images, questions, options.tokens)

        def prefill(batch=batch):
            with torch.no_grad():
                for inputs in batch.one_by_one():
                    model(**inputs, use_cache=True)

        def labels(batch=batch, share=share):
            collect_exit_table(model, [batch], share_images=share)

        line = {
            "case": name,
            "flops_prefills": counted(anatomy, labels) / counted(anatomy, prefill),
            "wall_prefills": seconds(labels) / seconds(prefill),
        }
        print(f"{name:28} {line['flops_prefills']:.2f} prefills by FLOPs, {line['wall_prefills']:.2f} by wall clock")
        lines.append(line)
    if options.out:
        about = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
        about |= {"threads": torch.get_num_threads(), "question_tokens": options.tokens, "visual_tokens": VISUAL}
        options.out.write_text(json.dumps({**about, "cases": lines}, indent=2) + "\n")


if __name__ == "__main__":
    main()
