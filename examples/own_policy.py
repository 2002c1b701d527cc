"""A policy of your own: 12 lines, and it attaches, traces, composes and is judged like the ones that ship.

Runs in a second on a tiny random model: python examples/own_policy.py
"""

from dataclasses import dataclass

import torch

import lookaway as la
from lookaway.anatomy.tiny import tiny


@dataclass(frozen=True)
class KeepFirst(la.Policy):
    """Before one layer, keep only the first `count` visual tokens of every row."""

    layer: int
    count: int

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        return (self.layer,)

    def decide(self, view: la.LayerView) -> la.Decision:
        visual = view.layout.visual  # bool [B, S]
        rank = visual.long().cumsum(dim=1)  # 1, 2, 3, ... over the visual tokens of each row
        return la.Decision(keep=~visual | (rank <= self.count))


def main() -> None:
    example = tiny("llava")
    inputs = example.inputs("left_padded")  # rows of different lengths, one of them without an image

    with la.attach(example.model, KeepFirst(layer=2, count=3)) as run, torch.no_grad():
        fast = example.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    with la.reference(example.model, KeepFirst(layer=2, count=3)), torch.no_grad():
        slow = example.model.generate(**inputs, max_new_tokens=8, do_sample=False)

    assert torch.equal(fast, slow), "removal must equal masking"
    print("visual tokens per layer and row:", run.trace.visual_tokens)
    print(f"prefill FLOPs: {run.trace.cost().flops_share:.1%} of the unpruned run")


if __name__ == "__main__":
    main()
