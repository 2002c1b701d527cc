"""What tests of `lookaway fit` share: its arguments on a tiny model, its record, and live answers."""

import torch

import lookaway as la
from lookaway.core.record import read_records
from lookaway.data import load_samples
from lookaway.models.encoding import encode

__all__ = ["NEW", "arguments", "live", "record_of", "samples_of"]

NEW = 2
"""Longest answer, in tokens."""


def live(loaded, sample, policy, count=NEW):
    """(text, tokens) of one sample alone under an attached policy, as `generate` gives them."""
    model, processor = loaded
    inputs = encode(processor, [sample], model.device).inputs
    with torch.no_grad(), la.attach(model, policy):
        ids = model.generate(**inputs, max_new_tokens=count, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return processor.decode(ids, skip_special_tokens=True).strip(), ids.tolist()


def arguments(model, data, out, *more):
    return ("fit", "--model", model, "--data", data, "--out", out, "--max-new-tokens", NEW, "--epsilon", 0.9,
            "--limit", 24, "--device", "cpu", *more)  # fmt: skip


def record_of(out):
    return next(record for record in read_records(out / "records.jsonl") if record["kind"] == "fit")


def samples_of(data, split):
    return load_samples(str(data), split, 24, 0, distinct_images=True)
