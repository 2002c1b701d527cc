"""What a model answers by itself: one unpadded sample a run, no cache, no batch, nothing of lookaway's engine.

What leaves the decoder before a layer is masked there by hand, in the attention mask that the layer gets. A column that
left still sees itself, so that no row is empty; nobody else sees it.
"""

from __future__ import annotations

from contextlib import contextmanager
from math import floor

import torch
from torch.nn.functional import cross_entropy

from lookaway.models.encoding import open_image

__all__ = ["Judge", "evenly"]


def evenly(rates, visual):
    """What a schedule with the ranking 'uniform' leaves: for each layer the visual columns that it still sees."""
    left, kept = list(visual), []
    for rate in rates:
        wanted = min(round(rate * len(visual)), len(left))
        places = [
            floor((i + 1) * wanted / len(left) + 0.5) > floor(i * wanted / len(left) + 0.5) for i in range(len(left))
        ]
        left = [column for column, stays in zip(left, places, strict=True) if stays]
        kept.append(left)
    return kept


class Judge:
    """A bare model and its processor.

    Args:
        layers: its decoder layers.
        visual_ids: token ids that stand for visual tokens.
        answer_type: `token_type_ids` of what the model itself says.
    """

    def __init__(self, model, processor, layers, visual_ids, answer_type=0):
        self.model, self.processor, self.layers = model, processor, layers
        self.visual_ids, self.answer_type = list(visual_ids), answer_type
        self.depth = len(layers)

    def prompt(self, sample):
        """The inputs of one sample."""
        text = self.processor.apply_chat_template(sample.messages, add_generation_prompt=True, tokenize=False)
        images = [[open_image(image) for image in sample.images]] if sample.images else None
        return dict(self.processor(text=[text], images=images, padding=True, padding_side="left", return_tensors="pt"))

    def visual(self, inputs):
        """Columns of visual tokens."""
        ids = inputs["input_ids"][0].tolist()
        return [column for column, token in enumerate(ids) if token in self.visual_ids]

    def at_exit(self, inputs, layer):
        """What each layer sees if all visual tokens leave before `layer`."""
        return [self.visual(inputs) if index < layer else [] for index in range(self.depth)]

    def longer(self, inputs, tokens):
        """The prompt with these tokens behind it."""
        more = torch.tensor([tokens])
        grown = dict(inputs)
        for name, value in (("input_ids", more), ("attention_mask", torch.ones_like(more)),
                            ("token_type_ids", torch.full_like(more, self.answer_type)),
                            ("mm_token_type_ids", torch.zeros_like(more))):  # fmt: skip
            if name in inputs:
                grown[name] = torch.cat([inputs[name], value.to(inputs[name].dtype)], 1)
        return grown

    @torch.no_grad()
    def logits(self, inputs, seen=None, without=(), frozen=()):
        """[S, vocabulary]; `seen`: the visual columns that each layer sees; `without`: layers with no attention;
        `frozen`: layers that leave the visual rows as they are."""
        visual = self.visual(inputs)
        with self._hooks(visual, seen or [visual] * self.depth, without, frozen):
            return self.model(**inputs, use_cache=False).logits[0]

    def answer_logits(self, sample, tokens, seen=None, without=()):
        """Logits [A, vocabulary] that predict the answer's tokens; `seen` as a function of the inputs."""
        inputs = self.longer(self.prompt(sample), tokens)
        found = self.logits(inputs, seen(inputs) if seen else None, without)
        return found[-len(tokens) - 1 : -1]

    def loss(self, sample, tokens, seen=None, without=()):
        """Mean cross-entropy of an answer's tokens."""
        return float(cross_entropy(self.answer_logits(sample, tokens, seen, without), torch.tensor(tokens)))

    def tokens(self, answer):
        """An answer's tokens, with the end."""
        tokenizer = self.processor.tokenizer
        return [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    def greedy(self, sample, count, layer=None):
        """Token ids of the greedy answer without the end token, the image gone before `layer`."""
        inputs, said = self.prompt(sample), []
        for _ in range(count):
            grown = self.longer(inputs, said) if said else inputs
            token = int(self.logits(grown, None if layer is None else self.at_exit(grown, layer))[-1].argmax())
            if token == self.processor.tokenizer.eos_token_id:
                break
            said.append(token)
        return said

    def text(self, tokens):
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    @contextmanager
    def _hooks(self, visual, seen, without, frozen=()):
        def narrow(columns):
            gone = sorted(set(visual) - set(columns))

            def hook(module, args, kwargs):
                mask, hidden = kwargs.get("attention_mask"), args[0] if args else kwargs["hidden_states"]
                length = hidden.shape[1]
                if mask is None:
                    sees = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
                else:
                    sees = (mask if mask.dtype == torch.bool else mask == 0).clone()
                sees[..., gone] = False
                sees |= torch.eye(length, dtype=torch.bool)
                low = torch.finfo(hidden.dtype).min
                return args, {**kwargs, "attention_mask": torch.zeros(sees.shape).masked_fill(~sees, low)}

            return hook

        def silent(module, args, output):
            return (torch.zeros_like(output[0]), *output[1:])

        def undo(module, args, kwargs, output):
            changed = output.clone()
            changed[:, visual] = (args[0] if args else kwargs["hidden_states"])[:, visual]
            return changed

        hooks = [
            layer.register_forward_pre_hook(narrow(columns), with_kwargs=True)
            for layer, columns in zip(self.layers, seen, strict=True)
            if len(columns) < len(visual)
        ]
        hooks += [self.layers[layer].register_forward_hook(undo, with_kwargs=True) for layer in frozen]
        hooks += [self.layers[layer].self_attn.register_forward_hook(silent) for layer in without]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
