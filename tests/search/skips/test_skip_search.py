"""The search on a live model: distinct arms, rewards that leave nothing behind, resuming, ranks, baselines."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.errors import AttachError, DataError, SettingsError
from lookaway.core.record import RecordWriter, Sample, read_records
from lookaway.engine.api import attach
from lookaway.engine.replay.teacher_forcing import answer_loss, attached_loss
from lookaway.evaluation.statistics import share_interval
from lookaway.models.encoding import encode
from lookaway.search.skips.compare import SkipScore
from lookaway.search.skips.ranking import last_skips, least_change, output_changes, random_skips
from lookaway.search.skips.search import SkipSearchOptions, search_skips, split_samples, subset_rewards
from lookaway.search.skips.supernet import drawn_size

QUICK = SkipSearchOptions(
    skip=2, steps=6, subsets=3, turn=2, warm=0.3, width=4, batch_size=2, reward_batch=2, save_steps=2, lr=1e-2
)


def samples(count=12):
    found = []
    for i in range(count):
        picture = Image.new("RGB", (16, 16), ("red", "blue")[i % 2])
        content = [{"type": "image"}, {"type": "text", "text": "colour?" + "!" * (i % 3)}]
        found.append(Sample(f"s{i}", [{"role": "user", "content": content}], (picture,), ("red", "blue")[i % 2]))
    return found


SAMPLES = samples()


def batch_of(count=3):
    return encode(tiny_processor(), SAMPLES[:count], "cpu", [s.answer for s in SAMPLES[:count]])


def test_each_arm_is_one_module_of_its_own():
    model = tiny("llava").model
    layers = model.model.language_model.layers
    ran = []
    for i, part in enumerate(layers):
        part.self_attn.q_proj.register_forward_hook(lambda *a, i=i: ran.append(i))
    for arm in range(4):
        ran.clear()
        answer_loss(model, batch_of(1), la.AttentionSkip((arm,)))
        assert sorted(ran) == [i for i in range(4) if i != arm]


def new_adapters(dropout=0.1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return la.SkipAdapters(32, range(4), la.AdapterShape(width=4, start="random", dropout=dropout)).train()


def test_a_reward_pass_leaves_nothing_behind():
    model, adapters = tiny("llava").model.train(), new_adapters()
    with torch.no_grad():
        model(**tiny("llava").inputs())  # transformers marks a vision tower in its first forward
    names = {name: sorted(vars(module)) for name, module in model.named_modules()}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    losses, rewards = subset_rewards(model, batch_of(), [(0, 1), (2, 3)], adapters)
    assert rewards == pytest.approx([torch.tensor(-x).exp().item() for x in losses])
    assert losses[0] != losses[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert adapters.training
    assert model.training
    assert all(p.grad is None for p in [*adapters.parameters(), *model.parameters()])
    assert {name: sorted(vars(module)) for name, module in model.named_modules()} == names
    with attach(model, la.AttentionSkip((1,), adapters)), pytest.raises(AttachError, match="attached to this model"):
        subset_rewards(model, batch_of(), [(0, 1)], adapters)  # never between a forward and its backward
    assert adapters.training


def test_a_search_step_with_checkpointing_has_the_gradient_of_one_without():
    gradients = []
    for checkpointing in (False, True):
        model, adapters = tiny("llava").model, new_adapters(dropout=0.0)
        if checkpointing:
            model.train().gradient_checkpointing_enable({"use_reentrant": False})
        with attach(model, la.AttentionSkip((1, 2), adapters)) as attached:
            attached_loss(model, attached, batch_of()).backward()
        gradients.append({n: p.grad for n, p in adapters.named_parameters() if p.grad is not None})
    assert {name.partition(".")[0] for name in gradients[0]} == {"1", "2"}
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[1][name], value, atol=1e-6) for name, value in gradients[0].items())


def test_a_backward_pass_after_detaching_is_refused_by_torch_not_wrong():
    model, adapters = tiny("llava").model.train(), new_adapters(dropout=0.0)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    loss = answer_loss(model, batch_of(), la.AttentionSkip((1, 2), adapters))
    with pytest.raises(torch.utils.checkpoint.CheckpointError):
        loss.backward()


def test_rewards_judge_in_eval_mode():
    model = tiny("llava").model
    adapters = new_adapters(dropout=0.9)
    first = subset_rewards(model, batch_of(), [(0, 1)], adapters)
    assert first == subset_rewards(model, batch_of(), [(0, 1)], adapters)


def test_a_search_trains_scores_and_writes_what_happened(tmp_path):
    model = tiny("llava").model
    before = copy.deepcopy(model.state_dict())
    wanted = [p.requires_grad for p in model.parameters()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        run = search_skips(model, tiny_processor(), SAMPLES, tmp_path / "out", QUICK, writer)
    assert torch.equal(torch.get_rng_state(), state)
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
    records = list(read_records(tmp_path / "records.jsonl"))
    assert [record["step"] for record in records] == [2, 4, 6]
    for record in records:
        assert len({tuple(subset) for subset in record["subsets"]}) == 3
        assert record["scores"] != [0.0] * 4
    assert run.layers == run.bandit.best() == tuple(records[-1]["best"])
    assert run.adapters.layers == run.layers
    assert not run.adapters.training
    train, held = split_samples(SAMPLES, QUICK)
    assert run.summary["held_out_ids"] == sorted(s.id for s in held)
    assert not {s.id for s in train} & {s.id for s in held}
    start = la.SkipAdapters(32, range(4), QUICK.shape())
    assert any(bool(p.abs().max() > 0) for n, p in run.adapters.named_parameters() if n.endswith("up"))
    assert all(bool(p.abs().max() == 0) for n, p in start.named_parameters() if n.endswith("up"))
    with attach(model, la.AttentionSkip(run.layers, run.adapters)), torch.no_grad():
        model(**batch_of(1).inputs)


def test_a_killed_search_goes_on_and_ends_as_one_that_was_not(tmp_path):
    whole = search_skips(tiny("llava").model, tiny_processor(), SAMPLES, tmp_path / "whole", QUICK)

    class Killed(Exception):
        pass

    def dies(steps, made=[0]):  # noqa: B006
        made[0] += steps
        if made[0] == 5:
            raise Killed

    with pytest.raises(Killed):
        search_skips(tiny("llava").model, tiny_processor(), SAMPLES, tmp_path / "cut", QUICK, progress=dies)
    assert json.loads((tmp_path / "cut" / "skip-search.json").read_text())["step"] == 4
    steps = []
    resumed = search_skips(
        tiny("llava").model, tiny_processor(), SAMPLES, tmp_path / "cut", QUICK, progress=steps.append
    )
    assert sum(steps) == 2
    assert resumed.history == whole.history
    assert resumed.layers == whole.layers
    for name, value in whole.adapters.state_dict().items():
        assert torch.equal(resumed.adapters.state_dict()[name], value)
    assert len(list((tmp_path / "cut").glob("supernet-*.safetensors"))) == 1

    with pytest.raises(DataError, match=r"options\.seed: . -> "):
        search_skips(tiny("llava").model, tiny_processor(), SAMPLES, tmp_path / "cut", replace(QUICK, seed=1))
    (tmp_path / "cut" / "skip-search.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        search_skips(tiny("llava").model, tiny_processor(), SAMPLES, tmp_path / "cut", QUICK)


def test_a_search_without_training_judges_plain_skips(tmp_path):
    model = tiny("llava").model
    run = search_skips(model, tiny_processor(), SAMPLES, tmp_path, replace(QUICK, train=False, steps=4, skip=1))
    assert run.adapters is None
    assert len(run.history) == 4
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_published_searches_are_spelled_out_in_a_config():
    from pathlib import Path

    import yaml

    text = (Path(__file__).parents[3] / "configs" / "eas-published-meter.yaml").read_text()
    options = SkipSearchOptions(**yaml.safe_load(text))
    preset = SkipSearchOptions(preset="published-meter", skip=10, weight_decay=0.01).filled()
    assert options == preset


def test_growing_warm_up():
    o = replace(SkipSearchOptions(preset="published-llava", skip=12, steps=400).filled(), warm=0.75)
    sizes = [drawn_size(step, o) for step in range(400)]
    assert sizes[0] == 1
    assert sizes == sorted(sizes)
    assert sizes[150] == sizes[-1] == 12
    assert sizes[100] == 9


def test_bad_input(tmp_path):
    model, processor = tiny("llava").model, tiny_processor()
    with pytest.raises(SettingsError, match="4 attentions to skip of 4"):
        search_skips(model, processor, SAMPLES, tmp_path, replace(QUICK, skip=4))
    with pytest.raises(SettingsError, match="7 different subsets were asked for, but 2 of 4 attentions make only 6"):
        search_skips(model, processor, SAMPLES, tmp_path, replace(QUICK, subsets=7))
    with pytest.raises(DataError, match="1 samples have no answer"):
        search_skips(model, processor, [*SAMPLES, replace(SAMPLES[0], answer=None)], tmp_path, QUICK)
    with pytest.raises(DataError, match="too few"):
        search_skips(model, processor, SAMPLES[:1], tmp_path, QUICK)
    with pytest.raises(SettingsError, match="with 4 layers"):
        search_skips(model, processor, SAMPLES, tmp_path, replace(QUICK, arms=(1, 2, 9)))
    assert not list(tmp_path.iterdir())


# several ranks -------------------------------------------------------------------------------------------------------


def _rank(rank, port, folder, results):
    """One process as torchrun starts it."""
    import os

    from torch import distributed

    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    try:
        torch.manual_seed(rank)  # ranks that draw by their own random state would differ
        with RecordWriter(f"{folder}/records-{rank}.jsonl") as writer:
            run = search_skips(tiny("llava").model, tiny_processor(), SAMPLES, f"{folder}/out", QUICK, writer)
        results[rank] = (run.history, dict(run.adapters.state_dict().items()))
    finally:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_draw_and_score_alike(tmp_path):
    import socket

    import torch.multiprocessing as mp

    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mp.spawn(_rank, args=(port, str(tmp_path), results), nprocs=2)
        (first, weights), (second, others) = results[0], results[1]
    assert first == second
    assert len(first) == 3
    assert all(torch.equal(others[name], value) for name, value in weights.items())
    alone = search_skips(tiny("llava").model, tiny_processor(), SAMPLES, tmp_path / "alone", QUICK)
    assert alone.history[-1]["losses"] != first[-1]["losses"]  # two ranks saw twice the batches
    assert len(list(read_records(tmp_path / "records-0.jsonl"))) == 3
    assert list(read_records(tmp_path / "records-1.jsonl")) == []


# baselines -----------------------------------------------------------------------------------------------------------


def test_an_attention_that_does_nothing_changes_nothing():
    model = tiny("llava").model
    model.model.language_model.layers[2].self_attn.o_proj.weight.data.zero_()
    changes = output_changes(model, [batch_of(2), batch_of(3)])
    assert changes[2] == pytest.approx(0, abs=1e-9)
    assert min(changes[layer] for layer in (0, 1, 3)) > 1e-4
    assert least_change(changes, 1) == (2,)
    with pytest.raises(SettingsError, match="4 attentions to skip of 4"):
        least_change(changes, 4)
    with pytest.raises(DataError, match="no answer to rank"):
        output_changes(model, [])


def test_random_and_last_sets():
    assert last_skips(32, 12) == tuple(range(20, 32))
    assert random_skips(32, 12, seed=1) == random_skips(32, 12, seed=1) != random_skips(32, 12, seed=2)
    assert len(set(random_skips(32, 12))) == 12
    with pytest.raises(SettingsError):
        random_skips(4, 4)


def test_questions_about_one_picture_are_no_independent_draws():
    """Forty questions about ten pictures, each picture's alike: the interval is that of ten, and p by image."""
    images = tuple(str(i // 4) for i in range(40))
    one = SkipScore("one", (1,), False, 0.0, "1111" * 6 + "0000" * 4, images)
    full = SkipScore("full", (), False, 0.0, "1" * 40, images)
    assert one.accuracy == share_interval([c == "1" for c in one.right], images)
    assert one.accuracy.high - one.accuracy.low > 0.5
    assert one.p_against(full) == pytest.approx(2 / 2**4)  # four pictures differ, all of them one way
    alone = tuple(map(str, range(40)))
    assert SkipScore("one", (1,), False, 0.0, one.right, alone).p_against(full) < 0.01
