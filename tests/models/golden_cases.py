"""The golden cases: what the public code answers on tiny checkpoints in published layouts (golden/README.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-5
PUBLIC_PLACEHOLDER = -200


@dataclass(frozen=True)
class Case:
    model: str
    name: str
    facts: dict[str, Any]

    @property
    def image(self) -> Image.Image:
        return Image.open(GOLDEN / "images" / self.facts["image"]).convert("RGB")

    def tensor(self, kind: str) -> torch.Tensor:
        return load_file(GOLDEN / self.model / "cases.safetensors")[f"{self.name}.{kind}"]


def checkpoint(model: str) -> Path:
    return GOLDEN / model / "checkpoint"


def change(folder: Path, **keys: Any) -> None:
    """Give a copied folder's config.json other values; `part__key` is a key inside of a part."""
    config = json.loads((folder / "config.json").read_text())
    for key, value in keys.items():
        place, _, inner = key.partition("__")
        config[place] = {**config[place], inner: value} if inner else value
    (folder / "config.json").write_text(json.dumps(config))


def cases(model: str) -> list[Case]:
    facts = json.loads((GOLDEN / model / "cases.json").read_text(encoding="utf-8"))["cases"]
    return [Case(model, name, fact) for name, fact in facts.items()]


def as_public_ids(ids: list[int], image_token_id: int, placeholder: int) -> list[int]:
    """Ids as the public code writes them: one -200 a picture, or the repeated context id as it is."""
    if placeholder != PUBLIC_PLACEHOLDER:
        return ids
    return [
        placeholder if token == image_token_id else token
        for i, token in enumerate(ids)
        if token != image_token_id or i == 0 or ids[i - 1] != image_token_id
    ]


def sampled(tensor: torch.Tensor, facts: dict[str, Any]) -> torch.Tensor:
    assert list(tensor.shape) == facts["shape"]
    return tensor.flatten()[:: facts["sample_stride"]]


@torch.no_grad()
def judge(model: Any, processor: Any, case: Case, tolerance: float = TOLERANCE) -> None:
    """Ids and pixels equal, embeddings and logits within the tolerance, greedy tokens equal."""
    facts = case.facts
    inputs = processor(text=facts["prompt"], images=case.image, return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    image = model.config.image_token_id
    assert as_public_ids(ids, image, facts["image_placeholder"]) == facts["input_ids"]
    assert ids.count(image) == facts["visual_tokens"]
    assert len(ids) == facts["sequence_length"]
    assert torch.equal(sampled(inputs["pixel_values"], facts["pixels"]), case.tensor("pixels"))
    seen: list[torch.Tensor] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, named: seen.append(named["inputs_embeds"]), with_kwargs=True
    )
    said = model.generate(**inputs, do_sample=False, max_new_tokens=8, return_dict_in_generate=True, output_logits=True)
    hook.remove()
    embeddings = sampled(seen[0], facts["embeddings"])
    torch.testing.assert_close(embeddings, case.tensor("embeddings"), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(said.logits[0][0], case.tensor("logits"), atol=tolerance, rtol=0)
    assert said.sequences[0, len(ids) :].tolist() == facts["greedy_ids"]
