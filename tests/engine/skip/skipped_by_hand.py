"""The reference implementation of skipping: a decoder run layer by layer, a skipped layer written out by formula."""

import torch
from torch.nn.functional import linear


def adapter_by_hand(adapter, z, p, routed=None):
    """f of EAS, written with explicit block matrices; `routed`: what the router reads, where it is not p."""
    s, h = adapter.shape, adapter.shape.width
    u = linear(z, adapter.token.weight, adapter.token.bias)
    if p is not None:
        u = u + linear(p, adapter.pooled.weight, adapter.pooled.bias)[:, None]
    u = u / 2
    weights = torch.ones(len(z), 1)
    if s.router:
        weights = (linear(p if routed is None else routed, adapter.router.weight, adapter.router.bias) / 10).softmax(-1)
    out = z.clone()
    for j in range(s.experts):
        full = torch.zeros(z.shape[-1], h, dtype=z.dtype)
        rows, columns = z.shape[-1] // s.groups, h // s.groups
        for g in range(s.groups):
            full[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = adapter.up[j, g]
        out = out + s.scale * weights[:, j, None, None] * (u @ full.T + adapter.up_bias[j])
    return out


@torch.no_grad()
def logits_by_hand(model, inputs, skipped, adapters=None, context_from=None):
    """Logits [B, S, vocabulary] of a whole sequence without a cache.

    Args:
        skipped: layers whose attention does not run.
        adapters: `SkipAdapters` that stand in for it.
        context_from: bool [B, S], columns that may be pooled (text and image alike); None: all that are real.
    """
    calls = []
    hooks = [
        layer.register_forward_pre_hook(lambda m, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
        for layer in model.model.language_model.layers
    ]
    model(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    real = inputs["attention_mask"].bool()
    prompt = real if context_from is None else real & context_from
    visual = inputs["input_ids"] == model.config.image_token_id
    hidden, shared = calls[0][0][0], None
    for index, layer in enumerate(model.model.language_model.layers):
        if index not in skipped:
            hidden = layer(hidden, **calls[index][1])
            continue
        norm_a, norm_f = layer.input_layernorm, layer.post_attention_layernorm
        ffn = layer.mlp
        if adapters is None:
            hidden = hidden + ffn(norm_f(hidden))
            continue
        adapter = adapters.replacement(index)
        shape = adapter.shape
        z = (norm_f if shape.reads == "ffn" else norm_a)(hidden)
        p = routed = None
        if shape.pool != "none":
            mask = prompt & ~visual if shape.pool == "text" else prompt
            p = torch.stack([row[m].mean(0) for row, m in zip(z, mask, strict=True)])
            if shape.router_without_first:
                routed = torch.stack([row[m][1:].mean(0) for row, m in zip(z, mask, strict=True)])
            if shape.once and index - 1 in skipped:
                p = shared
            shared = p
        changed = adapter_by_hand(adapter, z, p, routed)
        hidden = hidden + ffn(changed if shape.reads == "ffn" else norm_f.weight * changed)
    return model.lm_head(model.model.language_model.norm(hidden))
