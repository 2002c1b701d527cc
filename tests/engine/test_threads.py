"""Several threads call one attached model at once, and each gets what it would get alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from local_policies import Attentive, Exit, Thin

import lookaway as la
from lookaway.anatomy.tiny import IMAGE, tiny
from lookaway.core.errors import AttachError
from lookaway.engine.api import attach, reference
from lookaway.engine.observe.flow import watch_flow
from lookaway.engine.observe.probing import observe
from lookaway.modules.adapters import llava_shape


def skipping(layers, shape, dtype=torch.float32):
    """A policy that skips attentions, with adapters whose weights are drawn."""
    made = la.SkipAdapters(32, layers, shape)
    draw = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    return la.AttentionSkip(layers, made.to(dtype).eval())


GREEDY = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4, "suppress_tokens": [IMAGE]}
REQUESTS = 80


def requests(example, count):
    """Prompts of different lengths about the same picture, some without one."""
    single = example.inputs("single")
    draw = torch.Generator().manual_seed(0)
    for number in range(count):
        more = torch.randint(10, 90, (1, 1 + number % 7), generator=draw)
        ids = torch.cat([single["input_ids"], more], 1)
        yield {**single, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize(
    ("make", "how"),
    [
        (lambda: Exit(3), attach),
        (lambda: Exit(2), reference),
        (Thin, attach),
        (Attentive, attach),
        (lambda: skipping((1, 3), llava_shape(8)), attach),
        (lambda: la.chain(skipping((0, 2), la.AdapterShape(width=8)), la.ExitAt(1)), attach),
    ],
    ids=["exit", "reference", "thin", "attentive", "skip", "skip-and-exit"],
)
def test_each_request_equals_its_single_run(make, how):
    example = tiny("llava")
    prompts = list(requests(example, REQUESTS if how is attach else 16))

    def answer(inputs):
        out = example.model.generate(**inputs, **GREEDY)
        return out, run.trace

    with how(example.model, make()) as run:
        alone = [answer(inputs) for inputs in prompts]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(answer, prompts))
    for (ids, trace), (expected, expected_trace) in zip(together, alone, strict=True):
        assert torch.equal(ids, expected)
        assert trace == expected_trace  # each thread's own
    assert len(run.traces) == 2 * len(prompts)


def test_the_models_own_loss_is_each_threads_own():
    example = tiny("llava")
    prompts = list(requests(example, 24))

    def loss(inputs):
        with torch.no_grad():
            return float(example.model(**inputs, labels=inputs["input_ids"]).loss)

    with attach(example.model, Thin()):
        alone = [loss(inputs) for inputs in prompts]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(loss, prompts)) == alone


def test_answers_are_marked_for_one_thread():
    example = tiny("llava").model.double(), tiny("llava")
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in example[1].inputs("single").items()}
    late = torch.arange(inputs["input_ids"].shape[1])[None] >= 25
    found = {}
    with torch.no_grad(), attach(example[0], skipping((1, 3), llava_shape(8), torch.float64)) as run:
        plain = example[0](**inputs).logits
        with run.answer_columns(late):
            marked = example[0](**inputs).logits
            other = threading.Thread(target=lambda: found.update(plain=example[0](**inputs).logits.detach()))
            other.start()
            other.join()
    assert torch.equal(found["plain"], plain)
    assert not torch.equal(marked, plain)


@pytest.mark.parametrize("watch", [observe, watch_flow])
def test_an_observation_sees_one_thread_at_a_time(watch):
    example = tiny("llava")
    inputs = example.inputs("single")
    inside, go_on, errors = threading.Event(), threading.Event(), []

    def slow():
        with torch.no_grad():
            example.model(**inputs)

    def hold(module, args):
        inside.set()
        go_on.wait(20)

    with watch(example.model) as seen:
        hook = example.model.model.language_model.layers[1].register_forward_pre_hook(hold)
        first = threading.Thread(target=slow)
        first.start()
        inside.wait(20)
        hook.remove()
        try:
            with pytest.raises(AttachError, match="one forward at a time"):
                slow()
        except BaseException as error:
            errors.append(error)
        finally:
            go_on.set()
            first.join()
        assert not errors
        slow()  # and goes on afterwards
        assert seen.layout is not None
