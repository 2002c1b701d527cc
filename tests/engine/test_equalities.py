"""Removal equals masking, cached equals uncached, a batch equals its rows: for every family, attention and batch."""

import pytest
import torch
from local_policies import POLICIES, Thin, policy_for
from shared_tiny import OLD, cases, families, named, thorough_families, tiny, tiny_once
from transformers import DynamicCache

from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import IMAGE, VIDEO
from lookaway.anatomy.tiny.tiled import INDICATORS
from lookaway.engine.api import attach, reference
from lookaway.engine.prefill import row_groups as groups
from lookaway.engine.replay.shared_prefix import rows_of

ATTENTIONS = ("sdpa", "eager")
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
NO_IMAGE = [IMAGE, VIDEO, *INDICATORS]  # random weights would write placeholders, too
GREEDY = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8, "suppress_tokens": NO_IMAGE}
IMAGES = [1, 1, 0, 2]  # of the rows of the padded batches

pytestmark = [
    pytest.mark.parametrize("attention", ATTENTIONS),
    pytest.mark.filterwarnings("ignore:A policy is attached, but no row"),
]


def run(tiny_model, policy, inputs, how=attach):
    with torch.no_grad(), how(tiny_model.model, policy) as attached:
        out = tiny_model.model(**inputs, use_cache=True)
    return out, attached


@pytest.mark.parametrize(("family", "batch", "name"), cases(["keep", "keep-but-ask"]))
def test_keeping_all_is_bit_for_bit_the_unattached_model(family, attention, batch, name):
    model = tiny_once(family, attn_implementation=attention)
    inputs = model.inputs(batch)
    with torch.no_grad():
        plain = model.model(**inputs)
    out, attached = run(model, policy_for(name, 4), inputs)
    assert torch.equal(out.logits, plain.logits)
    assert attached.trace.visual_tokens == [attached.trace.visual_tokens[0]] * 4
    assert attached.trace.cost().flops_share == 1
    with torch.no_grad():  # and it is off again
        assert torch.equal(model.model(**inputs).logits, plain.logits)


@pytest.mark.parametrize(("family", "batch", "name"), cases([name for name in POLICIES if "keep" not in name]))
def test_removal_equals_masking(family, attention, batch, name):
    model = tiny_once(family, attn_implementation=attention)
    inputs = model.inputs(batch)
    rows = len(inputs["input_ids"])
    with torch.no_grad():
        full = model.model(**inputs)

    short, attached = run(model, policy_for(name, rows), inputs)
    masked, masking = run(model, policy_for(name, rows), inputs, reference)
    index, valid = attached.kept_columns()
    vocabulary = short.logits.shape[-1]
    same_columns = masked.logits.gather(1, index[..., None].expand(-1, -1, vocabulary))

    assert torch.equal(index, masking.kept_columns()[0])
    assert attached.trace == masking.trace
    torch.testing.assert_close(short.logits[valid], same_columns[valid], **TOLERANCE)
    assert not torch.isnan(short.logits).any()
    unpruned = full.logits.gather(1, index[..., None].expand_as(same_columns))
    assert (short.logits - unpruned)[valid].abs().max() > 1e-3  # the removal matters to this model

    # What the trace says is what the cache holds, to the byte; sliding windows hold at most their width.
    layers = short.past_key_values.layers
    held = [layer.get_seq_length() for layer in layers]
    assert held == attached.trace.cache_slots
    assert held[-1] < inputs["input_ids"].shape[1] or name in ("exit-rows", "before-rows")
    if not any(layer.is_sliding for layer in layers):
        stored = sum(part.nbytes for layer in layers for part in (layer.keys, layer.values))
        assert attached.trace.cost().kv_bytes == stored


@pytest.mark.parametrize(("family", "batch", "name"), [case for case in cases(POLICIES) if case[1] != "right_padded"])
def test_decoding_equals_masking_and_runs_without_cache(family, attention, batch, name):
    model = tiny_once(family, attn_implementation=attention)
    inputs = model.inputs(batch)
    rows = len(inputs["input_ids"])
    options = {**GREEDY, "return_dict_in_generate": True, "output_logits": True}
    with attach(model.model, policy_for(name, rows)) as attached:
        fast = model.model.generate(**inputs, **options)
    with reference(model.model, policy_for(name, rows)):
        slow = model.model.generate(**inputs, **options)
    assert torch.equal(fast.sequences, slow.sequences)
    torch.testing.assert_close(torch.stack(fast.logits), torch.stack(slow.logits), **TOLERANCE)
    lengths = [layer.get_seq_length() for layer in fast.past_key_values.layers]
    assert lengths == [slots + 7 for slots in attached.trace.cache_slots]


@families
def test_decoded_tokens_have_the_positions_of_the_unpruned_run(family, attention):
    model = tiny_once(family, attn_implementation=attention)
    inputs = model.inputs("left_padded")
    last = anatomy_of(model.model).layers[3]
    seen = []
    for policy in (policy_for("keep", 4), policy_for("exit-1", 4), policy_for("before", 4)):
        steps = []
        watch = last.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs, steps=steps: steps.append(kwargs["position_embeddings"]), with_kwargs=True
        )
        with attach(model.model, policy):
            model.model.generate(**inputs, do_sample=False, max_new_tokens=4, min_new_tokens=4)
        watch.remove()
        seen.append(steps)
    assert len(seen[0]) == 4
    for shorter in seen[1:]:
        assert seen[0][0][0].shape[-2] > shorter[0][0].shape[-2]  # the prompt lost some of its image
        for full, pruned in zip(seen[0][1:], shorter[-3:], strict=True):  # a prompt may run in groups of rows
            assert all(torch.equal(*parts) for parts in zip(full, pruned, strict=True))


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (family, name)
        for family, _, name in cases(["exit-1", "exit-rows", "exit-rows-late"], ["single"])
        if _ == "single"
    ],
)
def test_cached_equals_uncached(family, attention, name):
    """Exits do not depend on what comes later, so a longer prompt without cache must give the same logits."""
    model = tiny_once(family, attn_implementation=attention)
    inputs = model.inputs("left_padded")
    with attach(model.model, policy_for(name, 4)):
        cached = model.model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)
        longer = dict(inputs)
        longer["input_ids"] = cached.sequences[:, :-1]
        longer["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 7), value=1)
        for kind, later in (("token_type_ids", int(family.startswith("paligemma"))), ("mm_token_type_ids", 0)):
            if kind in inputs:  # the answer is plain text
                longer[kind] = torch.nn.functional.pad(inputs[kind], (0, 7), value=later)
        with torch.no_grad():
            uncached = model.model(**anatomy_of(model.model).with_positions(longer), use_cache=False)
    torch.testing.assert_close(torch.stack(cached.logits, 1), uncached.logits[:, -8:], **TOLERANCE)


@pytest.mark.parametrize(("family", "name"), named(["exit-1", "exit-rows", "thin", "attentive", "before", "merge"]))
def test_a_batch_equals_its_rows_one_by_one(family, attention, name):
    model = tiny(family, attn_implementation=attention)
    inputs = model.inputs("left_padded")
    exact = anatomy_of(model.model).attention == "sdpa"  # eager attention takes its softmax in fp32 in any type
    if exact:
        if family == "qwen3_vl_moe":
            model.model.set_experts_implementation("eager")  # the fast one knows no fp64
        model.model.double()
    inputs = {n: v.double() if exact and v.is_floating_point() else v for n, v in inputs.items()}
    policy = policy_for(name, 4)
    with attach(model.model, policy):
        together = model.model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)
    for row, alone in enumerate(one_by_one(model, inputs)):
        single = policy_for("exit-1", 1) if "exit" in name else policy_for(name, 4)
        if name == "exit-rows":
            single.at = [policy.at[row]]
        with attach(model.model, single):
            out = model.model.generate(**alone, **GREEDY, return_dict_in_generate=True, output_logits=True)
        # In fp32 padding alone moves logits by 1e-5, without any policy.
        tolerance = {"atol": 1e-9, "rtol": 1e-9} if exact else {"atol": 5e-5, "rtol": 1e-4}
        torch.testing.assert_close(torch.stack(together.logits)[:, row], torch.stack(out.logits)[:, 0], **tolerance)


def one_by_one(model, inputs):
    """The rows of a batch without padding, each with its own pictures."""
    width = inputs["attention_mask"].shape[1]
    for row in range(4):
        real = inputs["attention_mask"][row].bool()
        own = rows_of(anatomy_of(model.model), inputs, [row], IMAGES)
        yield {name: value[:, real] if value.shape[1:] == (width,) else value for name, value in own.items()}


@thorough_families
@pytest.mark.parametrize("exits", [[2, None, 1], [0, None, 1]])
def test_beams(family, attention, exits):
    """Rows are reordered inside a sample, and each keeps its own columns, even where beams of a sample differ."""
    if OLD and family.startswith("qwen3_vl"):
        pytest.skip("transformers 5.16 cannot search beams with this model, attached or not (image_grid_thw is split)")
    model = tiny_once(family, attn_implementation=attention)
    inputs = {name: value for name, value in model.inputs("single").items() if name != "batch_num_images"}
    options = {"do_sample": False, "num_beams": 3, "max_new_tokens": 6, "num_return_sequences": 3}
    results = []
    for how in (attach, reference):
        policy = policy_for("exit-rows", 4)
        policy.at = exits
        with how(model.model, policy):
            results.append(model.model.generate(**inputs, **options))
    assert torch.equal(*results)


@thorough_families
@pytest.mark.parametrize("layers", [(1, 2), (0, 2)])
def test_a_second_turn_of_text(family, attention, layers):
    model = tiny_once(family, attn_implementation=attention)
    inputs = model.inputs("left_padded")
    more = torch.randint(10, 90, (4, 3), generator=torch.Generator().manual_seed(3))
    logits = []
    for how in (attach, reference):
        with torch.no_grad(), how(model.model, Thin(layers)):
            first = model.model(**inputs, use_cache=True)
            mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 3), value=1)
            positions = mask.cumsum(1)[:, -3:] - 1  # any will do: the reference gets the same
            second = model.model(
                input_ids=more, attention_mask=mask, position_ids=positions, past_key_values=first.past_key_values
            )
            logits.append(second.logits)
    torch.testing.assert_close(*logits, **TOLERANCE)


@thorough_families
@pytest.mark.parametrize("first", ["thin", "exit-rows", "keep", "before-and-inside", "merge"])
@pytest.mark.parametrize("batch", ["single", "left_padded"])
def test_a_second_turn_with_an_image_of_its_own(family, attention, batch, first):
    """What left in the first turn stays away, and the new image gets its own decision."""
    if OLD and family == "gemma3":
        pytest.skip("transformers 5.16 cannot give this model an image in a second turn, attached or not")
    model = tiny_once(family, attn_implementation=attention)
    inputs = model.inputs(batch)
    rows, length = inputs["input_ids"].shape
    options = {**GREEDY, "return_dict_in_generate": True, "output_logits": True}
    results, traces, lengths = [], [], []
    for how in (attach, reference):
        cache = DynamicCache(config=model.model.config.text_config)
        with torch.no_grad(), how(model.model, policy_for("keep-but-ask" if first == "keep" else first, rows)):
            one = model.model(**inputs, past_key_values=cache)
        again = {**inputs, "input_ids": torch.cat([inputs["input_ids"]] * 2, 1)}
        again["attention_mask"] = torch.cat([inputs["attention_mask"]] * 2, 1)
        with how(model.model, policy_for("exit-rows-late" if first == "keep" else first, rows)) as run:
            two = model.model.generate(**again, past_key_values=one.past_key_values, **options)
        results.append(two)
        traces.append(run.trace)
        lengths.append([layer.get_seq_length() for layer in two.past_key_values.layers])
    assert torch.equal(results[0].sequences, results[1].sequences)
    torch.testing.assert_close(torch.stack(results[0].logits), torch.stack(results[1].logits), **TOLERANCE)
    assert traces[0] == traces[1]
    prompt = traces[0].prompt_tokens or traces[0].tokens[0]
    assert prompt == inputs["attention_mask"].sum(1).tolist()  # of this turn
    if first == "keep":
        assert lengths[0] == [length + slots + 7 for slots in traces[0].cache_slots]
    assert lengths[1] == [2 * length + 7] * 4


@thorough_families
@pytest.mark.parametrize("batch", ["left_padded", "right_padded"])
@pytest.mark.parametrize("name", ["exit-rows", "exit-rows-late", "thin", "before"])
def test_groups_of_like_length_equal_one_rectangle(family, attention, batch, name, monkeypatch):
    """Rows that keep different numbers run apart in prefill; one call a length makes the most groups there can be."""
    monkeypatch.setitem(groups.CALL, "cpu", 0)
    model = tiny_once(family, attn_implementation=attention)
    inputs = model.inputs(batch)
    options = {"output_hidden_states": True, "use_cache": True}
    with torch.no_grad(), attach(model.model, policy_for(name, 4)) as run:
        apart = model.model(**inputs, **options)
        count = len(run._here.latest.groups)
        assert run.split
        run.split = False
        together = model.model(**inputs, **options)
        _, valid = run.kept_columns()
    assert count == len(set(run.trace.tokens[-1])) > 1
    torch.testing.assert_close(apart.logits[valid], together.logits[valid], **TOLERANCE)
    for ours, theirs in zip(apart.past_key_values.layers, together.past_key_values.layers, strict=True):
        assert ours.keys.shape == theirs.keys.shape
        assert ours.values.shape == theirs.values.shape
    assert [h.shape for h in apart.hidden_states] == [h.shape for h in together.hidden_states]
    last = valid[..., None]
    torch.testing.assert_close(apart.hidden_states[-1] * last, together.hidden_states[-1] * last, **TOLERANCE)


@thorough_families
@pytest.mark.parametrize("exits", [[1, 3], [2, None], [0, 2]])
def test_rows_of_one_length_that_exit_at_different_layers(family, attention, exits):
    """Without padding transformers gives SDPA no mask at all, and rows still come to keep different numbers."""
    model = tiny_once(family, attn_implementation=attention)
    single = model.inputs("single")
    inputs = {name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in single.items()}
    inputs["input_ids"][1, -5:] = torch.tensor([11, 12, 13, 14, 15])
    options = {**GREEDY, "return_dict_in_generate": True, "output_logits": True}
    results = []
    for how in (attach, reference):
        policy = policy_for("exit-rows", 2)
        policy.at = exits
        with how(model.model, policy):
            results.append(model.model.generate(**inputs, **options))
    assert torch.equal(results[0].sequences, results[1].sequences)
    torch.testing.assert_close(torch.stack(results[0].logits), torch.stack(results[1].logits), **TOLERANCE)
