"""Visual tokens a layer, in words: the same sentence for every policy, whatever it removes and where."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["processed"]

MOST_STEPS = 3
"""Changes from one layer to the next that a sentence still names one by one."""


def processed(counts: Sequence[int], whole: int) -> str:
    """What the decoder's layers processed of a row's visual tokens.

    Args:
        counts: visual tokens that each layer processed, [L].
        whole: visual tokens of the prompt.

    Returns:
        E.g. 'processed 68 of 196 visual tokens from layer 2 on', 'processed 98 of 196 visual tokens from layer 2 on,
        none from layer 21 on', 'processed all 196 visual tokens in all 30 layers'.
    """
    depth = len(counts)
    if not whole:
        return "no visual tokens in the prompt"
    before = [whole, *counts[:-1]]
    steps = [(layer, count) for layer, (old, count) in enumerate(zip(before, counts, strict=True)) if count != old]
    if not steps:
        return f"processed all {whole} visual tokens in all {depth} layers"
    if len(steps) > MOST_STEPS:
        mean = sum(counts) / depth
        return (
            f"processed {mean:.0f} of {whole} visual tokens a layer on average, from {counts[0]} in layer 0 to "
            f"{counts[-1]} in layer {depth - 1}"
        )
    (layer, count), *later = steps
    rest = "".join(f", {number or 'none'} from layer {at} on" for at, number in later)
    if count:
        where = f"in all {depth} layers" if not layer and not later else f"from layer {layer} on"
        return f"processed {count} of {whole} visual tokens {where}{rest}"
    if not layer:
        return f"processed none of {whole} visual tokens"
    seen = "layer 0" if layer == 1 else f"layers 0 to {layer - 1}"
    return f"processed all {whole} visual tokens in {seen}, none from layer {layer} on"
