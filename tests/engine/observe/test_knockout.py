"""Knockout by a growing batch equals masking a live run by hand; a knockout to the end equals an exit; saliency equals
the autograd of the whole model."""

from contextlib import contextmanager

import pytest
import torch
from shared_tiny import RECIPES, tiny
from torch.nn.functional import cross_entropy

from lookaway.anatomy.find import anatomy_of
from lookaway.core.errors import DataError, UnsupportedModel
from lookaway.engine.observe.knockout import behind_image, blocked, knockout_outcomes, record_behind_image
from lookaway.engine.observe.saliency import image_saliency
from lookaway.engine.replay.exit_table import collect_exit_table

DEPTH = 4
WINDOWS = ((0, 2), (0, 4), (1, 3), (2, 4), (3, 4))


class Batch:
    """One sample of a tiny model whose last two tokens are its answer."""

    def __init__(self, inputs, answer_tokens=2):
        self.inputs = inputs
        self.answer_mask = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        self.answer_mask[:, -answer_tokens:] = True
        if "token_type_ids" in inputs and not bool(inputs["token_type_ids"].any()):  # PaliGemma: the answer is causal
            self.inputs = {**inputs, "token_type_ids": self.answer_mask.long()}
        self.samples = [type("S", (), {"id": str(i), "images": (1,)})() for i in range(len(inputs["input_ids"]))]


def answer_loss(logits, batch):
    where = batch.answer_mask[0].nonzero().flatten()
    return cross_entropy(logits[0, where - 1], batch.inputs["input_ids"][0, where])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", RECIPES)
def test_all_windows_at_once_equal_one_masked_run_each(family, attention):
    made = tiny(family, DEPTH, attn_implementation=attention)
    batch = Batch(made.inputs())
    found = knockout_outcomes(made.model, batch, WINDOWS)
    with torch.no_grad():
        full = made.model(**batch.inputs).logits
        assert found.full_loss == pytest.approx(float(answer_loss(full, batch)), abs=1e-5)
        for number, (start, stop) in enumerate(WINDOWS):
            with blocked(made.model, range(start, stop)):
                logits = made.model(**batch.inputs).logits
            assert float(found.loss[number]) == pytest.approx(float(answer_loss(logits, batch)), abs=1e-5)
            same = bool((logits[0, -3:-1].argmax(-1) == full[0, -3:-1].argmax(-1)).all())
            assert bool(found.agree[number]) == same
    assert len({round(float(loss), 4) for loss in found.loss}) == len(WINDOWS)  # each window does something of its own


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["single", "left_padded", "right_padded"])
@pytest.mark.parametrize("family", ["llava", "paligemma"])
def test_blocking_is_masking_by_hand(family, attention, kind):
    """The map of a blocked layer has zeros where text looks at the image, and other layers' maps do not."""
    model = tiny(family, DEPTH, attn_implementation="eager")
    live = tiny(family, DEPTH, attn_implementation=attention)
    inputs = model.inputs(kind)
    layout = anatomy_of(model.model).layout(inputs["input_ids"], inputs["attention_mask"])
    pairs = behind_image(layout)[:, :, None] & layout.visual[:, None, :]
    assert bool(pairs.any())
    with torch.no_grad():
        before = model.model(**inputs, output_attentions=True)
        with blocked(model.model, [1, 2]):
            inside = model.model(**inputs, output_attentions=True)
        with blocked(live.model, [1, 2]):
            logits = live.model(**inputs).logits
        after = model.model(**inputs, output_attentions=True)
    real = ~layout.padding
    torch.testing.assert_close(logits[real], inside.logits[real], atol=1e-4, rtol=1e-4)
    assert torch.equal(before.logits, after.logits)
    for layer, maps in enumerate(inside.attentions):
        looked = maps.amax(1)[pairs]
        assert bool((looked > 0).all()) != (layer in (1, 2))
        assert bool((looked == 0).all()) == (layer in (1, 2))
        rows = maps.sum(-1)[:, 0][real]
        torch.testing.assert_close(rows, torch.ones_like(rows))
    # rows without an image are what they were, and those in front of text that they do not see
    untouched = real & (~behind_image(layout) if family == "llava" else ~layout.visual.any(1, keepdim=True))
    torch.testing.assert_close(inside.logits[untouched], before.logits[untouched])


def test_windows_a_few_at_a_time_are_the_same(monkeypatch):
    from lookaway.engine.observe import knockout

    made = tiny("llava", DEPTH)
    batch, together = Batch(made.inputs()), []
    states_of = knockout._window_states
    monkeypatch.setattr(knockout, "_window_states", lambda t, w: together.append(len(w)) or states_of(t, w))
    whole = knockout_outcomes(made.model, batch, WINDOWS)
    few = knockout_outcomes(made.model, batch, WINDOWS, rows=20)  # nine rows of text each
    assert together == [5, 2, 2, 1]
    torch.testing.assert_close(few.loss, whole.loss, atol=1e-6, rtol=1e-6)
    assert torch.equal(few.agree, whole.agree)
    assert torch.equal(few.match, whole.match)


def test_a_knockout_to_the_end_is_an_exit():
    model = tiny("llava", DEPTH).model
    batch = Batch(tiny("llava", DEPTH).inputs())
    table = collect_exit_table(model, [batch])
    found = knockout_outcomes(model, batch, [(k, DEPTH) for k in table.layers])
    torch.testing.assert_close(found.loss, table.loss[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(found.agree, table.agree[0])
    assert torch.equal(found.match, table.match[0])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", RECIPES)
def test_saliency_is_the_gradient_of_the_whole_model(family, attention):
    made = tiny(family, DEPTH, attn_implementation=attention)
    batch = Batch(made.inputs())
    found = image_saliency(made.model, batch)
    anatomy = anatomy_of(made.model)
    layout = anatomy.layout(batch.inputs["input_ids"])
    rows, visual = layout.question_mask()[0], layout.visual[0]
    length = len(rows)
    shifts = []

    def shifted(module, args, kwargs):
        shift = torch.zeros(1, 1, length, length, requires_grad=True)
        mask = kwargs["attention_mask"]  # of this layer: windows and pictures that see themselves differ from causal
        if mask is None:
            mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        shifts.append(shift)
        return args, {**kwargs, "attention_mask": mask + shift}

    hooks = [layer.register_forward_pre_hook(shifted, with_kwargs=True) for layer in anatomy.layers]
    answer_loss(made.model(**batch.inputs).logits, batch).backward()
    for hook in hooks:
        hook.remove()
    for layer in range(DEPTH):
        by_hand = shifts[layer].grad[0, 0][rows][:, visual].abs().sum(0)
        torch.testing.assert_close(found.reading[layer], by_hand, atol=1e-6, rtol=1e-3)
    assert bool((found.reading > 0).any())


def test_saliency_is_what_a_small_knockout_changes():
    """Finite differences: all scores of text on the image a little lower in one layer."""
    made = tiny("llava", DEPTH)
    batch = Batch(made.inputs())
    anatomy = anatomy_of(made.model.double())
    inputs = {name: v.double() if v.is_floating_point() else v for name, v in batch.inputs.items()}
    batch.inputs = inputs
    layout = anatomy.layout(inputs["input_ids"])
    one = layout.visual[0].nonzero()[3, 0]
    row = layout.question_mask()[0].nonzero()[-1, 0]

    def loss(shift):
        def lower(module, args, kwargs):
            length = layout.visual.shape[1]
            mask = torch.full((length, length), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None]
            mask[0, 0, : row + 1, one] -= shift
            return args, {**kwargs, "attention_mask": mask}

        hook = anatomy.layers[3].register_forward_pre_hook(lower, with_kwargs=True)
        with torch.no_grad():
            value = float(answer_loss(made.model(**inputs).logits, batch))
        hook.remove()
        return value

    slope = (loss(1e-4) - loss(-1e-4)) / 2e-4
    assert abs(slope) <= float(image_saliency(made.model, batch).reading[3, 3]) + 1e-7
    assert abs(slope) > 0


@contextmanager
def bidirectional(model):
    """As in a model whose image and prompt all see each other."""

    def see_all(module, args, kwargs):
        length = (args[0] if args else kwargs["hidden_states"]).shape[1]
        return args, {**kwargs, "attention_mask": torch.ones(1, 1, length, length, dtype=torch.bool)}

    hooks = [layer.register_forward_pre_hook(see_all, with_kwargs=True) for layer in anatomy_of(model).layers]
    yield
    for hook in hooks:
        hook.remove()


def test_nothing_is_left_behind_and_bad_input_is_named():
    made = tiny("llava", DEPTH)
    batch = Batch(made.inputs())
    image_saliency(made.model, batch)
    knockout_outcomes(made.model, batch, WINDOWS)
    assert not any(module._forward_pre_hooks for module in made.model.modules())
    assert all(parameter.grad is None for parameter in made.model.parameters())
    with pytest.raises(DataError, match="ascending"):
        knockout_outcomes(made.model, batch, [(2, 3), (1, 2)])
    with pytest.raises(DataError, match="within 0 to 4"):
        knockout_outcomes(made.model, batch, [(2, 5)])
    with pytest.raises(DataError, match="one sample"):
        knockout_outcomes(made.model, Batch(made.inputs("left_padded")), WINDOWS)
    words = Batch({"input_ids": torch.tensor([[11, 12, 13, 14]]), "attention_mask": torch.ones(1, 4)})
    with pytest.raises(DataError, match="no image"):
        knockout_outcomes(made.model, words, WINDOWS)
    with pytest.raises(DataError, match="no image"):
        image_saliency(made.model, words)
    anatomy = anatomy_of(made.model)
    with pytest.raises(UnsupportedModel, match="image sees the text"), bidirectional(made.model):
        record_behind_image(anatomy, batch.inputs)
    anatomy_of(made.model).language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModel, match="attn_implementation='sdpa'"):
        image_saliency(made.model, batch)
