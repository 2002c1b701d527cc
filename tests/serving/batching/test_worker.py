"""The batching worker against the model's own `generate`, one request at a time: its reference implementation."""

import queue
import random
import threading
import time
from functools import cache

import pytest
import torch

import lookaway as la
from lookaway.anatomy.tiny import TINY, tiny
from lookaway.core.errors import UnsupportedModel
from lookaway.serving.batching.requests import Failed, Finished, Generation, Piece, QueueFull, Sampling, Stopping
from lookaway.serving.batching.worker import Worker

FAMILIES = ("llava", "llava_next", "qwen2_vl", "qwen3_vl", "paligemma", "gemma3", "internvl", "smolvlm")
POLICIES = {
    "exit": la.ExitAt(2),
    "late": la.ExitAt(3),
    "fastv": la.FastV(layer=2, ratio=0.5),
    "before": la.UniformKeep(0.5, layer=0),
    "renumber": la.UniformKeep(0.5, layer=0, positions="renumber"),
    "frozen": la.ShortV((0, 2)),
    "skip": la.AttentionSkip(layers=(2,)),
}
LONG = 9


@cache
def own(family):
    """A tiny model of this file alone."""
    return tiny(family, seed=11)


def prompts(model, count=4):
    """Prompts of different lengths: the single row with a picture, with more or fewer words behind it."""
    base = model.inputs()
    draw = torch.Generator().manual_seed(5)
    for extra in range(count):
        words = torch.randint(10, 90, (1, 2 * extra), generator=draw)
        ids = torch.cat([base["input_ids"], words], 1)
        more = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in base:
                more[name] = torch.cat([base[name], torch.zeros_like(words)], 1)
        yield {**base, **more}


def alone(model, inputs, policy):
    """What the model itself answers to one request under this policy; None: without any."""

    def run():
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=LONG)
        return ids[0, inputs["input_ids"].shape[1] :].tolist()

    if policy is None:
        return run()
    with la.attach(model, policy):
        return run()


def written(model, tokens):
    """The tokens as `Numbers` writes them; the end token is no text."""
    end = model.generation_config.eos_token_id
    ends = {end} if isinstance(end, int) else set(end or ())
    return "".join(f"{token} " for token in tokens if token not in ends)


class Client:
    """Collects what a worker says to one request."""

    def __init__(self, worker, inputs, policy, **more):
        self.said = queue.Queue()
        self.request = Generation(inputs, self.said.put, policy=policy, **{"max_new_tokens": LONG, **more})
        worker.reserve()
        worker.submit(self.request)

    def result(self):
        text = ""
        while True:
            item = self.said.get(timeout=120)
            if not isinstance(item, Piece):
                return text, item
            text += item.text


class Numbers:
    """A tokenizer that writes ids as numbers, so that a text says which tokens it is made of."""

    eos_token_id = None

    def decode(self, ids, skip_special_tokens=True):
        return "".join(f"{i} " for i in ids)


class NumbersProcessor:
    tokenizer = Numbers()


def worker_of(model, policies=None, **more):
    worker = Worker(model, NumbersProcessor(), POLICIES if policies is None else policies, **more)
    worker.start()
    return worker


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_batch_answers_as_each_request_alone(family):
    made = own(family)
    policies = {name: policy for name, policy in POLICIES.items() if fits(made.model, policy)}
    wanted = [(inputs, policy) for inputs in prompts(made) for policy in (None, *policies)]
    random.Random(3).shuffle(wanted)
    expected = [alone(made.model, inputs, POLICIES.get(policy)) for inputs, policy in wanted]
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    worker = worker_of(made.model, policies, max_batch=6, max_waiting=100)
    clients = [Client(worker, inputs, policy) for inputs, policy in wanted]
    for (_, policy), tokens, client in zip(wanted, expected, clients, strict=True):
        text, last = client.result()
        assert isinstance(last, Finished), (policy, last)
        assert text == written(made.model, tokens), policy
        assert last.saved["policy"] == (policy or "off")
        assert last.answer_tokens == len(tokens)
        if policy == "exit":
            assert last.saved["exit_layer"] == 2
            assert last.saved["prefill_flops_share"] < 1
            assert last.saved["kv_bytes_share"] < 1
    assert len(policies) >= 3
    assert worker.stop()
    assert all(torch.equal(before[name], value) for name, value in made.model.state_dict().items())
    with la.attach(made.model, la.KeepAll()):  # nothing is left attached
        pass


def fits(model, policy):
    try:
        la.attach(model, policy).detach()
    except la.LookawayError:
        return False
    return True


def test_every_family_is_served():
    """A short answer of every family; rows whose caches cannot be joined (sliding windows) decode alone."""
    for family in TINY:
        made = own(family)
        inputs = made.inputs()
        with la.attach(made.model, la.ExitAt(3)):
            ids = made.model.generate(**inputs, do_sample=False, max_new_tokens=3)
        worker = worker_of(made.model, {"exit": la.ExitAt(3)})
        text, last = Client(worker, inputs, "exit", max_new_tokens=3).result()
        assert isinstance(last, Finished), family
        assert text == written(made.model, ids[0, inputs["input_ids"].shape[1] :].tolist()), family
        assert worker.stop()


def test_the_models_repetition_penalty_counts():
    made = tiny("llava", seed=12)
    made.model.generation_config.eos_token_id = None
    made.model.generation_config.repetition_penalty = 3.0
    inputs = made.inputs()
    expected = alone(made.model, inputs, POLICIES["exit"])
    worker = worker_of(made.model)
    text, _ = Client(worker, inputs, "exit").result()
    assert text == written(made.model, expected)
    assert worker.stop()
    made.model.generation_config.repetition_penalty = 1.0
    assert alone(made.model, inputs, POLICIES["exit"]) != expected  # the penalty shows


def test_generation_settings_that_are_not_carried_out_are_refused():
    made = tiny("llava", seed=12)
    made.model.generation_config.no_repeat_ngram_size = 2
    with pytest.raises(UnsupportedModel, match="no_repeat_ngram_size=2"):
        worker_of(made.model)


def test_models_that_hand_values_from_token_to_token_are_refused():
    made = tiny("llava", seed=12)

    class Remembers(type(made.model)):
        def _update_model_kwargs_for_generation(self, outputs, model_kwargs, *args, **kwargs):
            return {**model_kwargs, "mood": outputs.logits.mean()}

    made.model.__class__ = Remembers
    with pytest.raises(UnsupportedModel, match="Remembers hands values of its own"):
        worker_of(made.model)


@pytest.mark.parametrize("published", [False, True])
def test_a_model_that_says_what_it_hands_on(published):
    """LaVIN: the routing of a prompt with a picture is another than that of text, in one batch."""
    from lookaway.models.tiny_models import tiny_lavin

    torch.manual_seed(3)
    model = tiny_lavin(num_layers=4, published_decode_positions=published)
    for name, weight in model.named_parameters():
        if "adapter" in name or "gate" in name:
            torch.nn.init.normal_(weight, std=0.5)
    image = model.config.image_token_id
    draw = torch.Generator().manual_seed(1)

    def prompt(words, picture):
        ids = torch.randint(10, 60, (1, words), generator=draw)
        if not picture:
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        ids = torch.cat([ids[:, :2], torch.full((1, model.config.image_seq_length), image), ids[:, 2:]], 1)
        size = model.config.vision_config.image_size
        pixels = torch.randn(1, 3, size, size, generator=draw)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

    asked = [(prompt(4, True), "exit"), (prompt(7, False), "off"), (prompt(9, True), "off"), (prompt(5, True), "fastv")]
    policies = {name: POLICIES[name] for name in ("exit", "fastv")}
    expected = [
        written(model, alone(model, inputs, policies.get(name) if "pixel_values" in inputs else None))
        for inputs, name in asked
    ]
    worker = worker_of(model, policies)
    clients = [Client(worker, inputs, None if name == "off" else name) for inputs, name in asked]
    assert [client.result()[0] for client in clients] == expected
    assert worker.stop()


def test_models_that_write_no_answer_are_refused():
    from lookaway.models.tiny_models import tiny_vilt

    with pytest.raises(UnsupportedModel, match="classifies"):
        worker_of(tiny_vilt())


def test_sampling_is_the_same_for_the_same_seed():
    made = own("llava")
    worker = worker_of(made.model, {})
    inputs = made.inputs()

    def answer(**sampling):
        return Client(worker, inputs, None, sampling=Sampling(**sampling)).result()[0]

    assert answer(temperature=2.0, seed=1) == answer(temperature=2.0, seed=1)
    assert len({answer(temperature=2.0, seed=seed) for seed in range(5)}) > 1
    assert answer(temperature=2.0, top_p=1e-6, seed=3) == answer()  # the likeliest token alone is left
    assert worker.stop()


def test_stop_strings_end_the_answer_and_are_not_part_of_it():
    made = own("llava")
    tokens = alone(made.model, made.inputs(), None)
    worker = worker_of(made.model, {})
    text, last = Client(worker, made.inputs(), None, stop=(f"{tokens[3]} ",)).result()
    whole = written(made.model, tokens)
    assert text == whole[: whole.index(f"{tokens[3]} ")]
    assert last.reason == "stop"
    assert worker.stop()


def test_a_full_queue_refuses_with_a_time():
    made = own("llava")
    worker = worker_of(made.model, {}, max_waiting=2)
    worker.reserve()
    worker.reserve()
    with pytest.raises(QueueFull) as refused:
        worker.reserve()
    assert refused.value.seconds >= 1
    worker.release()
    worker.reserve()  # a place given back is free
    worker.release()
    worker.release()
    assert worker.waiting == 0
    assert worker.stop()
    with pytest.raises(Stopping):
        worker.reserve()


def test_cancelled_and_late_requests_leave_the_others_alone():
    made = own("llava")
    inputs = made.inputs()
    expected = alone(made.model, inputs, POLICIES["exit"])
    worker = worker_of(made.model)
    gone = Client(worker, inputs, "late", max_new_tokens=100_000)
    late = Client(worker, inputs, "late", max_new_tokens=100_000, deadline=time.monotonic() + 0.3)
    good = Client(worker, inputs, "exit")
    assert isinstance(gone.said.get(timeout=60), Piece)
    gone.request.cancel()
    assert good.result()[0] == written(made.model, expected)
    _, last = late.result()
    assert (type(last), last.reason) == (Failed, "deadline")
    deadline = time.monotonic() + 60
    while worker.running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert worker.running == 0
    assert worker.stop()


def test_a_failing_request_fails_alone(caplog):
    made = own("llava")
    inputs = made.inputs()
    worker = worker_of(made.model)
    wrong = {**inputs, "pixel_values": inputs["pixel_values"][..., :3]}
    assert Client(worker, wrong, "exit").result()[1].reason == "internal"
    assert Client(worker, inputs, "exit").result()[0] == written(made.model, alone_after(worker, made, inputs))


class Broken:
    """A tokenizer that fails on the third token of an answer."""

    eos_token_id = None

    def decode(self, ids, skip_special_tokens=True):
        if len(ids) > 2:
            raise RuntimeError("broken")
        return ""


def test_a_row_that_fails_in_the_middle_fails_alone(caplog):
    made = own("llava")
    worker = worker_of(made.model)
    healthy, processor = worker.processor, NumbersProcessor()
    processor.tokenizer = Broken()
    worker.processor = processor
    broken = Client(worker, made.inputs(), "exit")
    assert broken.result()[1].reason == "internal"
    worker.processor = healthy
    assert Client(worker, made.inputs(), "late").result()[1].reason in ("stop", "length")
    assert worker.running == 0
    assert worker.stop()


def test_nobody_waits_for_a_worker_that_ended(caplog, monkeypatch):
    made = own("llava")
    worker = worker_of(made.model)
    worker.reserve()
    monkeypatch.setattr(worker, "_drop", lambda: 1 / 0)
    assert Client(worker, made.inputs(), "exit").result()[1].reason == "stopping"
    worker._thread.join(60)
    assert not worker.alive
    said = queue.Queue()
    worker.submit(Generation(made.inputs(), said.put))  # its pictures were still being read when the worker ended
    assert said.get(timeout=60).reason == "stopping"
    with pytest.raises(Stopping):
        worker.reserve()


@pytest.mark.filterwarnings("error")
def test_text_between_pictures(recwarn):
    """Prompts without a picture run under whatever is attached, and are answered as without any policy."""
    made = own("llava")
    words = {name: made.inputs()[name][:, -7:] for name in ("input_ids", "attention_mask")}
    inputs = made.inputs()
    wanted = [(words, "exit"), (inputs, "exit"), (words, "exit"), (inputs, "skip"), (words, None), (words, "late")]
    expected = [
        written(made.model, alone(made.model, content, None if content is words else POLICIES.get(policy)))
        for content, policy in wanted
    ]
    worker = worker_of(made.model)
    clients = [Client(worker, *one) for one in wanted]
    assert [client.result()[0] for client in clients] == expected
    assert worker.stop()


def alone_after(worker, made, inputs):
    assert worker.stop()
    return alone(made.model, inputs, POLICIES["exit"])


def test_stopping_finishes_what_was_taken():
    made = own("llava")
    worker = worker_of(made.model)
    clients = [Client(worker, made.inputs(), "exit") for _ in range(3)]
    ended = threading.Thread(target=worker.stop)
    ended.start()
    assert all(isinstance(client.result()[1], Finished) for client in clients)
    ended.join(60)
    assert not worker.alive


def test_stopping_at_once_tells_whoever_waits():
    made = own("llava")
    worker = worker_of(made.model, max_batch=1)
    clients = [Client(worker, made.inputs(), None, max_new_tokens=100_000) for _ in range(3)]
    assert isinstance(clients[0].said.get(timeout=60), Piece)
    assert worker.stop(finish=False, timeout=60)
    assert [client.result()[1].reason for client in clients] == ["stopping"] * 3
