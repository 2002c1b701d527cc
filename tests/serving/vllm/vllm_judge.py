"""Prompts for the tiny models, and the judge: transformers' generate, one row at a time, with `la.attach`."""

import math
import random

import torch
from vllm_checkpoints import FAMILIES, HIDDEN, LAYERS, save

NEW_TOKENS = 6
COUNT, TIGHT = 8, 6
"""Prompts of all kinds; and, behind them, such as need another KV block (of 32 tokens) for their third new token."""
FIXED_SIZE = ("llava", "llava_qwen2")
"""Families that give every picture the same number of visual tokens."""
WITH_GRIDS = (*FIXED_SIZE, "qwen2_vl", "qwen2_5_vl")
"""Families of which the rows and columns of a picture's visual tokens are known."""


GATED = range(1, LAYERS)


def policies(thresholds=0.5, confidences=(0.5, 0.5)):
    """Name -> policy, of each kind that the plugin carries out.

    Args:
        thresholds: of the gates. confidences: below which the two second looks look again.
    """
    import lookaway as la

    torch.manual_seed(0)
    gates = la.VisualExit(la.ExitGates(HIDDEN, layers=GATED, width=32), thresholds)
    return {
        "exit-1": la.ExitAt(1),
        "exit-3": la.ExitAt(3),
        "vtw-5": la.VTW(5),
        "never": la.ExitAt(None),
        "gates": gates,
        "fastv": la.FastV(2, 0.5),
        "fastv-gates": la.chain(la.FastV(2, 0.5), gates),
        "question-schedule": la.KeepSchedule([1.0, 0.8, 0.5, 0.5, 0.2, 0.0], ranking="question-mean"),
        "divprune-exit": la.chain(la.DivPrune(0.5), la.ExitAt(4)),
        "cdpruner": la.CDPruner(0.3),
        "sparsevlm": la.SparseVLM({2: 0.5, 4: 0.2}, recycle=0.5),
        "downsample": la.Downsample(2),
        "second-look": la.SecondLook(la.CDPruner(0.1), la.CDPruner(0.6), confidences[0]),
        "second-look-inside": la.SecondLook(la.FastV(2, 0.8), la.FastV(3, 0.3), confidences[1]),
    }


STATIC = ("exit-1", "exit-3", "vtw-5", "never")


class Judge:
    """A tiny model of a family, saved for vLLM and loaded with transformers, and its answers."""

    def __init__(self, family, folder):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.family, self.folder = family, save(family, folder)
        self.processor = AutoProcessor.from_pretrained(self.folder)
        self.model = AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None
        # `generate` would run the vision tower first, and hand on its rows without the pictures' rows and columns.
        self.model._supports_mm_encoder_outputs = lambda: False
        self.prompts = [*self.draw(COUNT), *self.draw_tight()]
        self.policies = policies(self.thresholds(), self.confidences())
        if family not in WITH_GRIDS:
            del self.policies["downsample"]
        self.saved = {name: str(policy.save_pretrained(folder / name)) for name, policy in self.policies.items()}
        self.table = dict(self.saved)
        """The policies of every table, name -> folder; without those that a file of tests adds for itself."""
        self._known = {}

    def add(self, policies):
        """More policies, by names that none has yet."""
        self.policies.update(policies)
        self.saved.update({name: str(policy.save_pretrained(self.folder / name)) for name, policy in policies.items()})

    def thresholds(self):
        """One a gate, such that some of the prompts leave at each of the layers."""
        never = policies(thresholds=1.0)["gates"]
        seen = []
        for prompt in self.prompts[:COUNT]:
            if prompt[1]:
                notes = self._generate(prompt, never)[2].notes
                seen.append([notes[layer]["exit_probability"][0] for layer in GATED])
        ranked = torch.tensor(seen).sort(dim=0).values  # [prompts, gates]
        place = len(ranked) * 2 // 3
        return ((ranked[place - 1] + ranked[place]) / 2).tolist()  # between two prompts: rounding turns no decision

    def confidences(self):
        """One for each second look, such that some of the prompts look again."""
        found = []
        for name in ("second-look", "second-look-inside"):
            self.policies = policies()
            pictures = [i for i in range(COUNT) if self.prompts[i][1]]
            sure = sorted(self.first_confidence(i, name) for i in pictures)
            found.append((sure[len(sure) // 2 - 1] + sure[len(sure) // 2]) / 2)  # between two prompts, as above
        return found

    def first_confidence(self, index, name):
        """Probability of the first answer token under the first policy of a second look."""
        return math.exp(self._generate(self.prompts[index], self.policies[name].first)[1][0])

    def draw(self, count, seed=0, words=30):
        """Prompts of different length: one picture, two or none, of two shapes where the family has them."""
        from PIL import Image

        draw = random.Random(seed)
        picture = FAMILIES[self.family][1]
        found = []
        for i in range(count):
            images = []
            for _ in range((1, 1, 2, 0)[i % 4]):
                size = (32, 32) if self.family in FIXED_SIZE else draw.choice([(32, 32), (64, 32)])
                images.append(Image.frombytes("RGB", size, draw.randbytes(3 * size[0] * size[1])))
            text = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, words))) for _ in range(len(images) + 1)]
            found.append((text[0] + "".join(picture + word for word in text[1:]), images))
        return found

    def draw_tight(self):
        """29 words and a picture of 64 tokens."""
        from PIL import Image

        draw = random.Random(1)
        picture = FAMILIES[self.family][1]
        images = [Image.frombytes("RGB", (32, 32), draw.randbytes(3 * 32 * 32)) for _ in range(TIGHT)]
        return [("".join(draw.choices("abcdefgh", k=9)) + picture + "a" * 20, [image]) for image in images]

    def answer(self, index, name):
        """(tokens, their log-probabilities, exit layer, what was saved) of prompt `index` under a policy, or 'off'."""
        from lookaway.serving.batching.savings import saved_by

        if (index, name) not in self._known:
            *found, trace = self._generate(self.prompts[index], self.policies.get(name))
            self._known[index, name] = (*found, trace.exit_layers[0], saved_by(trace))
        return self._known[index, name]

    def _generate(self, prompt, policy):
        import lookaway as la

        text, images = prompt
        inputs = self.processor(text=[text], images=images or None, return_tensors="pt")
        with la.attach(self.model, policy if images and policy else la.KeepAll()) as run, torch.no_grad():
            out = self.model.generate(
                **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True
            )
        tokens = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        logprobs = [float(step[0].log_softmax(-1)[token]) for step, token in zip(out.logits, tokens, strict=True)]
        return tokens, logprobs, run.trace
