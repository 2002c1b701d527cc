"""Gates behind another policy: their table is that of live runs of the two together."""

import pytest
import torch
from PIL import Image

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.errors import SettingsError
from lookaway.core.record import Sample
from lookaway.engine.api import attach
from lookaway.models.encoding import encode
from lookaway.policies.exit_simulation import exit_probabilities
from lookaway.training import labels_behind
from lookaway.training.exit_labels import LabelOptions, make_exit_table
from lookaway.training.gate_training import train_gates

LAYERS = (1, 2, 3)
OWN = LabelOptions(target="own", max_new_tokens=1, batch_size=2)


def sample(number):
    image = Image.new("RGB", (20, 14), ((40 * number) % 256, 99, 200 - 30 * number))
    content = [{"type": "image"}, {"type": "text", "text": "what is " + "that " * (number % 3) + "?"}]
    return Sample(str(number), [{"role": "user", "content": content}], (image,), "xyz"[: 1 + number % 3])


SAMPLES = [sample(number) for number in range(5)]


def skip():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return la.AttentionSkip((0, 2), la.SkipAdapters(32, (0, 2), la.AdapterShape(width=8, start="random")))


@pytest.fixture(scope="module")
def world():
    """A model that is sure of its answers, and led by its image."""
    model = tiny("llava").model
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
        model.lm_head.weight[model.config.image_token_id] = 0  # is never said
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.mul_(3)
    return model, tiny_processor()


@pytest.mark.parametrize("target", ["answer", "own"])
def test_behind_a_policy_that_does_nothing_it_is_the_table_from_the_tape(world, target):
    options = LabelOptions(target=target, max_new_tokens=4, batch_size=2)
    fast = make_exit_table(*world, SAMPLES, options)
    slow = make_exit_table(*world, SAMPLES, options, after=la.KeepAll())
    order = [slow.ids.index(name) for name in fast.ids]
    slow = slow.subset(order)
    assert (slow.ids, slow.layers, slow.target) == (fast.ids, fast.layers, fast.target)
    for name in ("match", "full_match", "agree"):
        assert torch.equal(getattr(slow, name), getattr(fast, name)), name
    for name in ("loss", "full_loss"):
        torch.testing.assert_close(getattr(slow, name), getattr(fast, name), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(slow.features, fast.features, atol=2e-3, rtol=2e-3)
    assert not fast.agree.all()


def test_agreement_is_that_of_free_running_answers(world):
    model, processor = world
    first = skip()
    table = make_exit_table(model, processor, SAMPLES, OWN, after=first)

    def said(policy, one):
        inputs = encode(processor, [one], model.device).inputs
        with attach(model, policy), torch.no_grad():  # the own answer's token, and what comes behind it
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=2)
        return ids[0, inputs["input_ids"].shape[1] :].tolist()

    for one in SAMPLES:
        row = table.ids.index(one.id)
        for column, layer in enumerate(LAYERS):
            same = said(la.chain(first, la.ExitAt(layer)), one) == said(first, one)
            assert same == bool(table.agree[row, column]), (one.id, layer)
    assert 0 < int(table.agree.sum()) < table.agree.numel()


def test_gates_see_live_what_they_learnt_from(world):
    model, processor = world
    first = skip()
    table = make_exit_table(model, processor, SAMPLES, OWN, after=first)
    gates = train_gates(table).gates
    expected = exit_probabilities(gates, table)
    for one in SAMPLES:
        policy = la.VisualExit(gates, threshold=1.0)  # asked everywhere, never exits
        with attach(model, la.chain(first, policy)) as run, torch.no_grad():
            model.generate(**encode(processor, [one], model.device).inputs, do_sample=False, max_new_tokens=1)
        for column, layer in enumerate(LAYERS):
            annotate_trace = run.trace.notes[layer]["exit_probability"]
            torch.testing.assert_close(
                torch.tensor(annotate_trace), expected[table.ids.index(one.id), column][None], atol=5e-3, rtol=5e-3
            )


def test_layers_without_anything_to_exit_from(world):
    for first, last in ((la.ExitAt(2), 1), (la.AttentionSkip((2, 3)), 2)):  # no token is left; no attention is
        assert make_exit_table(*world, SAMPLES, OWN, after=first).layers == LAYERS[:last]
        wanted = LabelOptions(target="own", max_new_tokens=1, candidates=LAYERS)
        with pytest.raises(
            SettingsError, match=rf"nothing to exit from before layer {last + 1}.*--layers {last + 1} out"
        ):
            make_exit_table(*world, SAMPLES, wanted, after=first)


def test_a_batch_is_made_once_and_another_policy_has_its_own(world, tmp_path, monkeypatch):
    tables = [make_exit_table(*world, SAMPLES, OWN, tmp_path, after=policy) for policy in (skip(), la.KeepAll())]
    assert not torch.equal(tables[0].loss, tables[1].loss)
    monkeypatch.setattr(labels_behind, "_table", None)
    again = make_exit_table(*world, SAMPLES, OWN, tmp_path, after=skip())
    assert torch.equal(again.loss, tables[0].loss)


def test_another_image_under_the_same_name_has_a_table_of_its_own(world, tmp_path):
    first = make_exit_table(*world, SAMPLES[:1], LabelOptions(), tmp_path, after=skip())
    other = sample(4)
    changed = Sample(SAMPLES[0].id, SAMPLES[0].messages, other.images, SAMPLES[0].answer)
    found = make_exit_table(*world, [changed], LabelOptions(), tmp_path, after=skip())
    assert found.ids == first.ids
    assert not torch.equal(found.features, first.features)
