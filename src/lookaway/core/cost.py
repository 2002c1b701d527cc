"""What a run costs in closed form: FLOPs of the decoder's prefill and bytes of its KV cache.

Two FLOPs numbers are printed side by side, because papers differ by a factor of up to 3.4 (docs/measuring.md):

- *counted*: 2 FLOPs a multiply-add, the model's real projections (grouped KV heads, two- or three-matrix FFN), the full
  n x n of attention. Equal to `torch.utils.flop_counter` (tests/core/test_cost.py).
- *FastV formula*: 4nd^2 + 2n^2d + 2ndm multiply-adds a layer (FastV, Eq. 5), for comparing with papers.

The vision tower, the projector and the language head are outside both: no policy here changes them, those that choose
before the decoder included.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = ["Cost", "DecoderShape", "LayerShape", "prefill_cost"]


@dataclass(frozen=True)
class LayerShape:
    """What one decoder layer costs where layers are not alike: experts, latent attention, running states."""

    ffn: int
    """Multiply-adds of a token outside of the attention; of the experts, those that it visits."""
    queries: int
    """Multiply-adds of a token in the matrices of the attention, or of what stands in its place, but for `keys`."""
    keys: int
    """Those of its keys and values."""
    scores: int
    """Multiply-adds of a query and a key: heads x (width of keys + width of values); 0 without attention. What a
    running state costs a token is not counted, beside its matrices."""
    kv: int
    """Elements that the KV cache stores for a token; 0 where a layer keeps a state of fixed size."""


@dataclass(frozen=True)
class DecoderShape:
    """The sizes that a decoder's cost depends on."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    dtype_bytes: int = 4
    """Bytes of one element of the KV cache."""
    ffn_matrices: int = 3
    """3 for gated FFNs (SwiGLU), 2 for plain ones."""
    layers: tuple[LayerShape, ...] = ()
    """One entry a layer, where they are not as the sizes above say; then those are of papers' formulas alone."""

    def layer(self, index: int) -> LayerShape:
        """What layer `index` costs."""
        if self.layers:
            return self.layers[index]
        d, width = self.hidden_size, self.num_heads * self.head_dim
        kv = 2 * self.num_kv_heads * self.head_dim
        return LayerShape(self.ffn_matrices * d * self.intermediate_size, 2 * d * width, d * kv, 2 * width, kv)

    def layer_flops(self, tokens: int, attention: bool = True, held: int = 0, layer: int | None = None) -> int:
        """Counted FLOPs of one decoder layer over `tokens` positions of one row; `attention` False: of its FFN.

        Args:
            held: so many of them are frozen: the layer makes their keys and values, and nothing else.
            layer: which; None: any, where all are alike.

        Raises:
            ValueError: no layer is named, and they are not alike.
        """
        shape, running = self._one(layer), tokens - held
        ffn = 2 * running * shape.ffn
        if not attention:
            return ffn
        return ffn + 2 * (running * shape.queries + tokens * shape.keys) + 2 * running * tokens * shape.scores

    def flops_between(self, tokens: int, start: int = 0, stop: int | None = None) -> int:
        """Counted FLOPs of layers `start` to `stop` - 1 (None: the last), each over `tokens` positions of one row."""
        stop = self.num_layers if stop is None else stop
        if not self.layers:
            return max(0, stop - start) * self.layer_flops(tokens)
        return sum(self.layer_flops(tokens, layer=layer) for layer in range(start, stop))

    def layer_fastv(self, tokens: int, attention: bool = True, held: int = 0) -> int:
        """Multiply-adds of one layer by FastV's Eq. 5; `attention` False: of its FFN. `held`: as in `layer_flops`."""
        d, m, running = self.hidden_size, self.intermediate_size, tokens - held
        attended = 2 * (running + tokens) * d * d + 2 * running * tokens * d  # 4nd^2 + 2n^2d where nothing is held
        return (attended if attention else 0) + 2 * running * d * m

    def kv_bytes(self, slots: int, layer: int | None = None) -> int:
        """Bytes of keys and values that one layer stores for `slots` positions of one row; None: any, where all are
        alike.

        Raises:
            ValueError: no layer is named, and they are not alike.
        """
        return slots * self._one(layer).kv * self.dtype_bytes

    def slot_bytes(self) -> int:
        """Bytes of keys and values that all layers together store for one position."""
        return sum(self.kv_bytes(1, layer) for layer in range(self.num_layers))

    def _one(self, layer: int | None) -> LayerShape:
        if layer is None and len(set(self.layers)) > 1:
            raise ValueError("The layers of this decoder are not alike: say which.")
        return self.layer(layer or 0)


@dataclass(frozen=True)
class Cost:
    """Cost of one prefill, summed over the rows of the batch, beside that of the unpruned run."""

    flops: int
    full_flops: int
    fastv_flops: int
    full_fastv_flops: int
    kv_bytes: int
    full_kv_bytes: int
    visual_tokens: float
    """Visual tokens that a layer processed, averaged over layers and rows."""
    full_visual_tokens: float

    @property
    def flops_share(self) -> float:
        """Counted FLOPs / those of the unpruned run (1.0 = nothing saved)."""
        return self.flops / self.full_flops

    @property
    def fastv_share(self) -> float:
        return self.fastv_flops / self.full_fastv_flops

    @property
    def kv_share(self) -> float:
        return self.kv_bytes / self.full_kv_bytes


def prefill_cost(
    shape: DecoderShape,
    tokens: Sequence[Sequence[int]],
    visual: Sequence[Sequence[int]],
    cache_slots: Sequence[Sequence[int]] | None = None,
    skipped: Collection[int] = (),
    replacement_flops: Sequence[Sequence[int]] | None = None,
    prompt_slots: Sequence[int] | None = None,
    prompt_tokens: Sequence[int] | None = None,
    prompt_visual: Sequence[int] | None = None,
    held: Collection[int] = (),
) -> Cost:
    """Cost of a prefill from what each layer processed.

    Args:
        tokens: [L][B] real tokens (visual and text) of each layer and row.
        visual: [L][B] visual tokens among them.
        cache_slots: [L][B] positions that the KV cache holds, padding included; None: as `tokens`.
        skipped: layers whose attention did not run; they cache nothing.
        replacement_flops: [L][B] counted FLOPs of what stood in for them; None: nothing did.
        prompt_slots: [B] positions of the unpruned prompt; None: those of layer 0.
        prompt_tokens: [B] real tokens of the unpruned prompt; None: those of layer 0.
        prompt_visual: [B] visual tokens of the unpruned prompt; None: those of layer 0.
        held: layers in which visual tokens were frozen; they cache them.
    """
    slots = tokens if cache_slots is None else cache_slots
    rows, layers = len(tokens[0]), len(tokens)
    full, full_slots = prompt_tokens or tokens[0], prompt_slots or slots[0]
    extra = sum(n for layer in replacement_flops or () for n in layer)
    runs = [layer not in skipped for layer in range(layers)]
    ran = [
        (n, runs[layer], still if layer in held else 0, layer)
        for layer in range(layers)
        for n, still in zip(tokens[layer], visual[layer], strict=True)
    ]
    return Cost(
        flops=sum(shape.layer_flops(*part) for part in ran) + extra,
        full_flops=sum(shape.layer_flops(n, True, 0, layer) for layer in range(layers) for n in full),
        fastv_flops=sum(shape.layer_fastv(*part[:3]) for part in ran) + extra // 2,
        full_fastv_flops=layers * sum(shape.layer_fastv(n) for n in full),
        kv_bytes=sum(shape.kv_bytes(n, i) for i, layer in enumerate(slots) if runs[i] for n in layer),
        full_kv_bytes=sum(shape.kv_bytes(n, i) for i in range(layers) for n in full_slots),
        visual_tokens=sum(n for layer in visual for n in layer) / (layers * rows),
        full_visual_tokens=sum(prompt_visual or visual[0]) / rows,
    )
