"""Prompts for the tiny models, and what transformers answers to them with a policy attached: the judge."""

import random

import torch

from tiny_checkpoints import FAMILIES

NEW_TOKENS = 6


def prompts(family, count=8, seed=0):
    """Prompts of different length: one picture, two, none, pictures of other shapes where the family has them."""
    from PIL import Image

    draw = random.Random(seed)
    picture = FAMILIES[family][1]
    found = []
    for i in range(count):
        images = []
        for _ in (1, 1, 2, 0)[i % 4] * (None,):
            size = (32, 32) if family.startswith("llava_qwen") or family == "llava" else draw.choice([(32, 32), (64, 32)])
            images.append(Image.frombytes("RGB", size, draw.randbytes(3 * size[0] * size[1])))
        words = ["".join(draw.choices("abcdefghij klmnop", k=draw.randint(2, 30))) for _ in range(len(images) + 1)]
        found.append((words[0] + "".join(picture + word for word in words[1:]), images))
    return found


def answer(model, processor, prompt, policy):
    """(tokens, log-probabilities, trace) of transformers' generate with the policy attached, one row."""
    import lookaway as la

    text, images = prompt
    inputs = processor(text=[text], images=images or None, return_tensors="pt")
    with la.attach(model, policy or la.KeepAll()) as run, torch.no_grad():
        out = model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
    tokens = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    logprobs = [float(step[0].log_softmax(-1)[token]) for step, token in zip(out.logits, tokens, strict=True)]
    return tokens, logprobs, run.trace
