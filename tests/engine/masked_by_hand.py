"""A judge that knows nothing of lookaway: an unattached model whose layers get a mask that was built by hand."""

import torch


def masked_by_hand(model, layers, inputs, exits, image_ids, prompt=None, image=None):
    """Logits [B, S, vocabulary] of one forward without cache, as if each row's image had left before `exits[row]`.

    Args:
        layers: the decoder layers of `model`, a stock transformers model that nothing is attached to.
        exits: one layer a row; None: never.
        image_ids: token ids that stand for visual tokens.
        prompt: columns that were the prompt (None: all); what was generated behind them is text, whatever its id.
        image: bool [B, S], columns of the image; None: by their ids, but for a row's last column of the prompt.
    """
    ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
    rows, length = ids.shape
    places = torch.arange(length)
    if image is None:
        image = torch.isin(ids, torch.tensor(image_ids)) & (places < (prompt or length))
    causal = places[None, :] <= places[:, None]

    def hook(index):
        gone = torch.tensor([k is not None and index >= k for k in exits])[:, None] & image  # [B, S]

        def close(module, args, kwargs):
            usual = kwargs["attention_mask"]
            if usual is None:  # plain causal, left to SDPA
                usual = (causal & real[:, None, :])[:, None]
            seen = usual if usual.dtype == torch.bool else usual > -1e4  # what transformers itself lets a token see
            seen = seen.expand(rows, -1, -1, -1) & ~gone[:, None, None, :]
            seen = seen | torch.eye(length, dtype=torch.bool)  # a row of nothing would be NaN; nobody reads it
            mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
            return args, {**kwargs, "attention_mask": mask}

        return close

    hooks = [layer.register_forward_pre_hook(hook(index), with_kwargs=True) for index, layer in enumerate(layers)]
    try:
        with torch.no_grad():
            return model(**inputs, use_cache=False).logits
    finally:
        for one in hooks:
            one.remove()
