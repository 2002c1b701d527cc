"""What a draft must do, by whole forwards without a cache: nothing of the engine's drafting is used."""

import torch

from lookaway.anatomy.tiny import IMAGE

END = 2
"""The tiny models' end token."""
SUPPRESSED = [IMAGE, END]
GREEDY = {"do_sample": False, "suppress_tokens": [IMAGE]}


def forward_of(model, inputs, ids, **options):
    """One forward over all of `ids` [1, N], without a cache."""
    more = ids.shape[1] - inputs["input_ids"].shape[1]
    longer = {**inputs, "input_ids": ids}
    for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            fill = torch.full((1, more), int(name == "attention_mask"), dtype=inputs[name].dtype)
            longer[name] = torch.cat([inputs[name], fill], 1)
    with torch.no_grad():
        return model(**longer, use_cache=False, **options)


def early_exit(model, anatomy, layers):
    """(inputs, ids) -> probabilities [V] of the next token behind `layers` layers of the model."""

    def guess(inputs, ids):
        states = forward_of(model, inputs, ids, output_hidden_states=True).hidden_states[layers]
        return shares(anatomy.head(anatomy.norm(states[:, -1])))

    return guess


def shortened_model(model):
    """The same of a model that is cut down to the first layers and a twig."""
    return lambda inputs, ids: shares(forward_of(model, inputs, ids).logits[:, -1])


def shares(logits):
    logits = logits[0].detach().clone()
    logits[SUPPRESSED] = -torch.inf
    return logits.softmax(-1)


def rounds(guess, inputs, answer, tokens, confidence, longest=None, end=None):
    """(guessed, accepted, checks) of a right greedy `answer`, ids: `longest` tokens, or fewer and the last is `end`."""
    drafted = accepted = checks = 0
    done, prompt = 1, inputs["input_ids"]  # the first token comes with the prompt
    while done < len(answer):
        wanted = min(tokens, (longest or len(answer)) - done - 1)
        if wanted < 1:
            break
        guesses = []
        for _ in range(wanted):
            ids = torch.cat([prompt, torch.tensor([answer[:done] + guesses])], 1)
            found = guess(inputs, ids)
            guesses.append(int(found.argmax()))
            if guesses[-1] == end or float(found.max()) < confidence:
                break
        right = 0
        while right < min(len(guesses), len(answer) - done) and guesses[right] == answer[done + right]:
            right += 1
        drafted, accepted, checks, done = drafted + len(guesses), accepted + right, checks + 1, done + right + 1
    return drafted, accepted, checks
