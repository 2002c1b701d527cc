"""Decoding pays for no hook that has nothing to do: which fire a token, and that no order of events loses one."""

import sys
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from cases import CASES
from local_policies import Exit, KeepButAsk, Thin
from shared_tiny import families, tiny, tiny_once
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache
from transformers.generation import StoppingCriteria, StoppingCriteriaList

import lookaway as la
from lookaway.anatomy.tiny import IMAGE
from lookaway.core.errors import AttachError
from lookaway.engine.api import attach, reference
from lookaway.engine.attachment import Attachment
from lookaway.engine.cache.growing import GrowingColumns
from lookaway.engine.cache.kept import Kept
from lookaway.engine.layer_hooks import ModuleHook

FIXED = {"do_sample": False, "suppress_tokens": [IMAGE]}
OF_LAYERS = ("_before_layer", "_after_layer", "_phases", "_see")
"""What runs in a decoder layer, or in its attention, for an attached policy."""


def calls_of(function):
    """(package, name) -> calls of Python functions while `function` runs."""
    found = Counter()

    def seen(frame, event, argument):
        if event == "call":
            package = "lookaway" if "/lookaway/" in frame.f_code.co_filename else ""
            found[package, frame.f_code.co_name] += 1

    sys.setprofile(seen)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


def calls_a_token(model, inputs, policy, few=3, many=7):
    """The same a decoded token, once decoding has settled; and the trace of the prompt."""
    with torch.no_grad(), attach(model, policy) as run:

        def generate(tokens):
            return lambda: model.generate(**inputs, **FIXED, max_new_tokens=tokens, min_new_tokens=tokens)

        generate(few)()
        counts = [calls_of(generate(tokens)) for tokens in (few, many)]
        trace = run.trace
    found = {name: (counts[1][name] - counts[0][name]) / (many - few) for name in counts[1]}
    return {name: count for name, count in found.items() if count}, trace


class TestHooksAToken:
    @pytest.mark.parametrize("kind", ["single", "left_padded"])
    @pytest.mark.parametrize("name", CASES)
    def test_only_what_a_mask_or_a_skipped_attention_needs(self, name, kind):
        """An unpadded row has no mask with SDPA, so one layer looks for it; else each layer that lacks columns asks."""
        example = tiny_once("llava")
        inputs = example.inputs(kind)
        found, trace = calls_a_token(example.model, inputs, CASES[name].make(len(inputs["input_ids"])))
        skipped, whole = set(trace.skipped), trace.prompt_tokens or trace.tokens[0]
        short = {layer for layer, tokens in enumerate(trace.tokens) if tokens != whole} - skipped
        expected = min(len(short), 1) if kind == "single" else len(short)
        assert found.get(("lookaway", "_before_layer"), 0) == expected + len(skipped)
        for other in OF_LAYERS[1:]:
            assert found.get(("lookaway", other), 0) == 0, other

    def test_held_layers_project_queries_as_they_are(self):
        example = tiny_once("llava")
        found, _ = calls_a_token(example.model, example.inputs(), la.ShortV((0, 2, 3)))
        assert not any(name == ("lookaway", "forward") for name in found)

    def test_what_idle_costs_does_not_grow_with_the_depth(self):
        costs = []
        for depth in (4, 9):
            example = tiny("llava", num_layers=depth)
            found, _ = calls_a_token(example.model, example.inputs(), KeepButAsk())
            costs.append(sum(count for (package, _), count in found.items() if package == "lookaway"))
        assert costs[0] == costs[1] <= 25

    @pytest.mark.parametrize("kind", ["single", "left_padded"])
    @pytest.mark.parametrize("policy", [Exit(2), Thin((1, 2))], ids=lambda policy: policy.name)
    def test_a_layer_behind_the_last_decision_costs_three_calls_of_the_engine(self, policy, kind):
        costs = []
        for depth in (4, 9):
            example = tiny("llava", num_layers=depth)
            with torch.no_grad(), attach(example.model, policy):
                found = calls_of(partial(example.model, **example.inputs(kind)))
            costs.append(sum(count for (package, _), count in found.items() if package == "lookaway"))
        assert costs[1] - costs[0] == 3 * 5  # before it, what it gets, behind it

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_masks_are_made_once_a_step_without_concatenation(self, attention):
        example = tiny("llava", attn_implementation=attention)
        inputs, made = example.inputs("left_padded"), []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                files = [frame.filename for frame in traceback.extract_stack()[:-1] if "/torch/" not in frame.filename]
                if "/lookaway/" in files[-1]:
                    made.append(func._schema.name)
                return func(*args, **(kwargs or {}))

        with torch.no_grad(), attach(example.model, Exit(1)):
            out = example.model(**inputs, use_cache=True)
            mask = inputs["attention_mask"]
            for step in range(3):
                mask = torch.nn.functional.pad(mask, (0, 1), value=1)
                given = {"input_ids": torch.tensor([[20]] * 4), "attention_mask": mask}
                made.clear()
                with Watch() if step else torch.no_grad():
                    out = example.model(**given, past_key_values=out.past_key_values)
        assert made.count("aten::gather") == 1  # three layers lack the same columns
        assert "aten::cat" not in made
        assert "aten::arange" not in made


def test_growing_columns_name_what_a_concatenation_would():
    kept = Kept(torch.tensor([[0, 2, 5], [1, 3, 5]]), torch.tensor([[True] * 3, [False, True, True]]), False)
    growing = GrowingColumns(kept, 6)
    views = {}
    for last in (6, 7, 69, 70, 71, 135, 300, 8):
        views[last] = growing.up_to(last)
    for last, view in views.items():  # also after others were made
        later = torch.arange(6, last).expand(2, -1)
        assert torch.equal(view.index, torch.cat([kept.index, later], 1))
        assert torch.equal(view.valid, torch.cat([kept.valid, torch.ones_like(later).bool()], 1))
        assert view.full is False


# what happens in between ----------------------------------------------------------------------------------------------


@contextmanager
def nothing_left_on(model):
    before = hooks_of(model)
    yield
    assert hooks_of(model) == before


def hooks_of(model):
    """Of the decoder; and the configs of its attentions, which are others while somebody reads them."""
    parts = dict(model.model.language_model.named_modules())
    found = {name: (len(part._forward_pre_hooks), len(part._forward_hooks)) for name, part in parts.items()}
    own = {name: vars(part).get("forward") for name, part in parts.items()}
    return found, own, {name: type(part.config) for name, part in parts.items() if hasattr(part, "config")}


def steps(model, cache, mask, ids, **more):
    """One forward for each of `ids`, each behind the last; the logits of all, and the mask by now."""
    logits = []
    for one in ids:
        mask = torch.nn.functional.pad(mask, (0, one.shape[1]), value=1)
        positions = mask.cumsum(1)[:, -one.shape[1] :] - 1
        out = model(input_ids=one, attention_mask=mask, position_ids=positions, past_key_values=cache, **more)
        logits.append(out.logits)
    return torch.cat(logits, 1), mask


@families
@pytest.mark.parametrize("kind", ["single", "left_padded"])
def test_steps_of_one_and_of_several_tokens_take_turns(family, kind):
    """Several tokens have a mask where one has none: hooks come on in the middle of a forward, and go off again."""
    example = tiny_once(family)
    inputs = example.inputs(kind)
    rows = len(inputs["input_ids"])
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(10, 90, (rows, count), generator=draw) for count in (1, 1, 1, 3, 1, 1, 2, 2, 1)]
    more = {"modality": (inputs["input_ids"] == IMAGE).any(1).long()} if family == "lavin" else {}
    found = []
    for how in (attach, reference):
        with torch.no_grad(), how(example.model, Thin()):
            out = example.model(**inputs, use_cache=True)
            found.append(steps(example.model, out.past_key_values, inputs["attention_mask"], ids, **more)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=2e-5)


def test_a_long_answer():
    """Longer than the room that is made for columns at once."""
    example = tiny_once("llava")
    inputs, found = example.inputs("left_padded"), []
    for how in (attach, reference):
        with how(example.model, Exit([2, None, 1, 3])):
            found.append(example.model.generate(**inputs, **FIXED, max_new_tokens=150, min_new_tokens=150))
    assert torch.equal(*found)


def test_prompts_after_decoding_and_caches_that_take_turns():
    """Each of two conversations decodes while the other one's hooks are wanted; then a new prompt comes."""
    example = tiny_once("llava")
    model, single, batch = example.model, example.inputs(), example.inputs("left_padded")
    ids = [torch.tensor([[20]]), torch.tensor([[21]])]
    found = []
    for how in (attach, reference):
        logits = []
        with torch.no_grad(), how(model, Thin((1, 3))):
            one = model(**single, use_cache=True).past_key_values
            two = model(**batch, use_cache=True).past_key_values
            masks = [single["attention_mask"], batch["attention_mask"]]
            for step in ids:
                for i, (cache, rows) in enumerate(((one, 1), (two, 4))):
                    new, masks[i] = steps(model, cache, masks[i], [step.expand(rows, -1)])
                    logits.append(new.flatten())
            logits.append(model(**single).logits[:, -1].flatten())
            text = {
                name: torch.full((1, 6), 20 if name == "input_ids" else 1) for name in ("input_ids", "attention_mask")
            }
            out = model(**text, use_cache=True)  # no image: nothing leaves
            logits.append(steps(model, out.past_key_values, text["attention_mask"], ids)[0].flatten())
            logits.append(model(**batch).logits[:, -1].flatten())
        found.append(torch.cat(logits))
    torch.testing.assert_close(*found, rtol=1e-4, atol=2e-5)


class Raising(StoppingCriteria):
    def __init__(self, at, do):
        self.left, self.do = at, do

    def __call__(self, ids, scores, **kwargs):
        self.left -= 1
        if not self.left:
            self.do()
        return torch.full((len(ids),), not self.left)


def raise_key_error():
    raise KeyError("the user's own")


@pytest.mark.parametrize("policy", [Exit(2), la.FastV(layer=2, ratio=0.5), la.ShortV((0, 2))], ids=lambda p: p.name)
def test_an_error_in_the_middle_of_an_answer(policy):
    example = tiny("llava")
    inputs = example.inputs("left_padded")
    with nothing_left_on(example.model), torch.no_grad(), attach(example.model, policy):
        before = hooks_of(example.model)
        expected = example.model(**inputs).logits
        stop = StoppingCriteriaList([Raising(3, raise_key_error)])
        with pytest.raises(KeyError, match="own"):
            example.model.generate(**inputs, **FIXED, max_new_tokens=6, stopping_criteria=stop)
        assert hooks_of(example.model) == before  # a layer that is called by hand is refused again
        with pytest.raises(AttachError, match="outside of the model's forward"):
            example.model.model.language_model.layers[2](torch.zeros(1, 1, 32))
        layer = example.model.model.language_model.layers[2].mlp
        cache = example.model(**inputs, use_cache=True).past_key_values
        more = {"input_ids": torch.full((4, 1), 20), "past_key_values": cache}
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        hook = layer.register_forward_pre_hook(lambda *_: raise_key_error())
        with pytest.raises(KeyError, match="own"):
            example.model(**more, attention_mask=mask)
        hook.remove()
        assert torch.equal(example.model(**inputs).logits, expected)


@pytest.mark.parametrize("policy", [Exit(2), la.FastV(layer=2, ratio=0.5), la.ShortV((0, 2))], ids=lambda p: p.name)
def test_detaching_in_the_middle_of_an_answer(policy):
    example = tiny("llava")
    inputs = example.inputs("left_padded")
    with nothing_left_on(example.model), torch.no_grad():
        expected = example.model(**inputs).logits
        run = attach(example.model, policy)
        stop = StoppingCriteriaList([Raising(3, run.detach)])
        example.model.generate(**inputs, **FIXED, max_new_tokens=6, stopping_criteria=stop)
        assert torch.equal(example.model(**inputs).logits, expected)


def test_hooks_of_others_keep_their_places():
    example = tiny("llava")
    model, inputs, order = example.model, example.inputs("left_padded"), []
    layer = model.model.language_model.layers[2]

    def note(name):
        def hook(module, args, kwargs=None):
            hidden = args[0] if args else kwargs["hidden_states"]
            order.append((name, hidden.shape[1]))

        return hook

    hooks = [layer.register_forward_pre_hook(note("first"), with_kwargs=True)]
    with torch.no_grad(), attach(model, Exit(2)):
        hooks.append(layer.register_forward_pre_hook(note("last"), with_kwargs=True))
        model(**inputs)
        once, length = list(order), inputs["input_ids"].shape[1]
        assert once[0] == ("first", length)
        assert once[1] == ("last", once[1][1])
        assert once[1][1] < length
        text = {name: torch.full((1, 6), 20 if name == "input_ids" else 1) for name in ("input_ids", "attention_mask")}
        cache = model(**text, use_cache=True).past_key_values
        steps(model, cache, text["attention_mask"], [torch.tensor([[20]])])  # nothing left, so no hook is needed
        assert len(layer._forward_pre_hooks) == 2
        hooks.append(layer.register_forward_pre_hook(note("later"), with_kwargs=True))
        order.clear()
        model(**inputs)
        assert order == [*once, ("later", once[1][1])]
        hooks[1].remove()
    hooks[0].remove()
    hooks[2].remove()
    assert not layer._forward_pre_hooks


@pytest.mark.parametrize("others", ["none", "in front", "behind", "both"])
def test_a_hook_that_was_put_in_front_while_ours_was_off_stays_there(others):
    """Of a module's only other hook, which has no neighbour to tell by, nobody knows how it was registered: behind."""
    module = torch.nn.Linear(2, 2)

    def front(*_): ...
    def own(*_): ...
    def behind(*_): ...
    def prepended(*_): ...
    def appended(*_): ...

    if others in ("in front", "both"):
        module.register_forward_pre_hook(front)
    ours = ModuleHook(module, module.register_forward_pre_hook(own), before=True)
    if others in ("behind", "both"):
        module.register_forward_pre_hook(behind)
    ours.off()
    module.register_forward_pre_hook(prepended, prepend=True)
    if others != "none":
        module.register_forward_pre_hook(appended)
    for _ in range(2):
        ours.on()
        order = [hook.__name__ for hook in module._forward_pre_hooks.values()]
        assert order == {
            "none": ["own", "prepended"],
            "in front": ["prepended", "front", "own", "appended"],
            "behind": ["prepended", "own", "behind", "appended"],
            "both": ["prepended", "front", "own", "behind", "appended"],
        }[others]  # fmt: skip
        ours.off()
    assert "own" not in [hook.__name__ for hook in module._forward_pre_hooks.values()]


def test_a_backward_pass_after_decoding():
    """Gradient checkpointing runs layers again in the backward pass, in some versions of transformers with their hooks;
    so these stay on, whatever is decoded before it."""
    example = tiny("llava")
    model, inputs = example.model, example.inputs()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = []
    with attach(model, Exit(2)):
        before = hooks_of(model)
        with torch.no_grad():
            cache = model.eval()(**inputs, use_cache=True).past_key_values
        for answering in (False, True):
            model.zero_grad()
            loss = model.train()(**inputs, labels=inputs["input_ids"], use_cache=False).loss
            if answering:
                with torch.no_grad():
                    steps(model.eval(), cache, inputs["attention_mask"], [torch.tensor([[20]])] * 2)
                assert hooks_of(model) == before
            model.train()
            loss.backward()
            found.append([part.grad.clone() for part in model.parameters() if part.grad is not None])
    assert found[0]
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


def test_a_static_cache_beside_a_growing_one():
    """A compiled step keeps the hooks that it met: behind a static cache all of them stay on."""
    example = tiny("llava")
    model, inputs = example.model, example.inputs("left_padded")
    options = {**FIXED, "max_new_tokens": 4, "min_new_tokens": 4, "disable_compile": True}
    with torch.no_grad(), attach(model, Exit([2, None, 1, 3])):
        before = hooks_of(model)
        expected = model.generate(**inputs, **options)
        assert torch.equal(model.generate(**inputs, **options, cache_implementation="static"), expected)
        cache = model(**inputs, use_cache=True).past_key_values
        steps(model, cache, inputs["attention_mask"], [torch.full((4, 1), 20)] * 2)
        assert hooks_of(model) == before


def test_threads_that_decode_prefill_and_rank_at_once():
    """Hooks and the reading of attentions go on and off under the feet of other threads."""
    example = tiny("llava")
    model, single, batch = example.model, example.inputs(), example.inputs("left_padded")

    def work(number):
        inputs = batch if number % 3 else single
        if number % 2:
            return model.generate(**inputs, **FIXED, max_new_tokens=5, min_new_tokens=5)
        with torch.no_grad():
            return model(**inputs).logits

    with attach(model, la.KeepSchedule([1.0, 0.6, 0.6, 0.2], ranking="last-token")):
        alone = [work(number) for number in range(6)]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(work, range(60)))
    for number, found in enumerate(together):
        torch.testing.assert_close(found, alone[number % 6], rtol=1e-4, atol=1e-5)


def test_two_models_switch_their_own():
    first, second = tiny("llava"), tiny("llava", seed=1)
    inputs = first.inputs("left_padded")
    with torch.no_grad(), attach(first.model, Exit(1)) as one, attach(second.model, Thin()) as two:
        before = hooks_of(second.model)
        cache = first.model(**inputs, use_cache=True).past_key_values
        second.model(**inputs)
        steps(first.model, cache, inputs["attention_mask"], [torch.full((4, 1), 20)])
        assert hooks_of(second.model) == before
        assert isinstance(one, Attachment)
        assert one.trace.exit_layers == [1, 1, None, 1]
        assert two.trace.exit_layers == [None] * 4


def test_an_empty_cache_object_is_a_prompt():
    example = tiny_once("llava")
    inputs = example.inputs()
    with torch.no_grad(), attach(example.model, Exit(2)):
        expected = example.model(**inputs).logits
        for _ in range(2):
            cache = DynamicCache(config=example.model.config.text_config)
            assert torch.equal(example.model(**inputs, past_key_values=cache).logits, expected)
            steps(example.model, cache, inputs["attention_mask"], [torch.tensor([[20]])] * 2)
