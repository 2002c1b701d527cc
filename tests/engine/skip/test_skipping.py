"""Skipped attention: what runs is the formula; cached, batched, padded, in beams; nothing of it stays behind."""

import copy
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import transformers
from shared_tiny import OLD
from skipped_by_hand import logits_by_hand
from transformers import CompileConfig, StaticCache

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.errors import AttachError, DataError, ModelMismatch, SettingsError, UnsupportedModel
from lookaway.engine.api import attach, reference
from lookaway.engine.cache.skipped_slot import SkippedSlot
from lookaway.evaluation.cost import counted_flops
from lookaway.modules.adapters import lavin_shape, llava_shape

SHAPES = {
    "none": None,
    "recommended": la.AdapterShape(width=8, start="random"),
    "each-layer": la.AdapterShape(width=8, start="random", once=False),
    "no-pool": la.AdapterShape(width=8, start="random", pool="none", groups=2),
    "published": llava_shape(8),
    "published-lavin": lavin_shape(8, start="random"),
    "published-text": replace(llava_shape(8), pool="text"),
}
TOLERANCE = {"atol": 1e-9, "rtol": 1e-9}  # in fp64: in fp32 padding alone moves logits by 1e-5
GREEDY = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}
VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))
FULL = {**GREEDY, "return_dict_in_generate": True, "output_logits": True}


def model_of(family="llava", attention="sdpa", layers=4):
    """In fp64, but for eager attention: its softmax is in fp32, where the closed places of an fp64 mask overflow."""
    example = tiny(family, num_layers=layers, attn_implementation=attention)
    if attention != "eager":
        example.model.double()
    return example


def adapters(name, layers, seed=0, dtype=torch.float64):
    shape = SHAPES[name]
    if shape is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = la.SkipAdapters(32, layers, shape)
        for parameter in made.parameters():  # biases too
            parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)
    return made.to(dtype).eval()


def policy(name, layers, dtype=torch.float64):
    return la.AttentionSkip(layers, adapters(name, layers, dtype=dtype))


def double(inputs):
    return {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}


@contextmanager
def steps_logits(model):
    """Logits of the last token of every forward, in the model's own type: `generate` hands them out in fp32."""
    found = []
    hook = model.lm_head.register_forward_hook(lambda module, args, out: found.append(out[:, -1]))
    try:
        yield found
    finally:
        hook.remove()


# what runs is the formula --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("family", "skipped", "batch"),
    [
        ("llava", (0, 3), "left_padded"),
        ("llava", (1, 2), "right_padded"),
        ("llava", (0, 1, 2), "single"),
        ("llava_onevision", (0, 2, 3), "left_padded"),
    ],
)
def test_the_formula(family, name, skipped, batch):
    example = model_of(family)
    inputs = double(example.inputs(batch))
    chosen = policy(name, skipped)
    with torch.no_grad(), attach(example.model, chosen) as run:
        found = example.model(**inputs).logits
    expected = logits_by_hand(example.model, inputs, skipped, chosen.adapters)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], **TOLERANCE)
    with torch.no_grad():
        assert (found - example.model(**inputs).logits)[real].abs().max() > 1e-3  # the skip matters
    assert run.trace.skipped == list(skipped)
    assert [n == 0 for n in run.trace.cache_slots] == [layer in skipped for layer in range(4)]


def test_recommended_adapters_start_as_the_layer_without_its_attention():
    example = model_of()
    inputs = double(example.inputs())
    start = la.SkipAdapters(32, (1, 2)).double().eval()
    with torch.no_grad():
        with attach(example.model, la.AttentionSkip((1, 2))):
            plain = example.model(**inputs).logits
        with attach(example.model, la.AttentionSkip((1, 2), start)):
            assert torch.equal(example.model(**inputs).logits, plain)
        published = la.SkipAdapters(32, (1, 2), lavin_shape(8)).double().eval()
        # Give the two norms gains that differ, as trained models have: published adapters then start elsewhere.
        example.model.model.language_model.layers[1].input_layernorm.weight.mul_(1.5)
        with attach(example.model, la.AttentionSkip((1, 2), published)):
            assert (example.model(**inputs).logits - plain).abs().max() > 1e-3


def test_skipped_projections_never_run():
    example = model_of()
    ran = []
    for index, layer in enumerate(example.model.model.language_model.layers):
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            linear = getattr(layer.self_attn, part)
            linear.register_forward_hook(lambda *a, place=(index, part): ran.append(place))
    with attach(example.model, policy("recommended", (0, 2))):
        out = example.model.generate(**double(example.inputs()), **FULL)
    assert {layer for layer, _ in ran} == {1, 3}
    held = [getattr(layer, "keys", None) for layer in out.past_key_values.layers]
    assert [keys is None for keys in held] == [True, False, True, False]


# cached, batched, padded, in beams -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attention", "name", "skipped", "batch"),
    [
        ("sdpa", "none", (0,), "left_padded"),
        ("sdpa", "none", (2, 3), "single"),
        ("sdpa", "recommended", (0, 3), "left_padded"),
        ("sdpa", "recommended", (0, 1, 3), "single"),
        ("sdpa", "each-layer", (1, 2, 3), "left_padded"),
        ("sdpa", "published", (0, 2), "left_padded"),
        ("eager", "recommended", (0, 3), "left_padded"),
        ("eager", "published", (1, 3), "single"),
    ],
)
def test_cached_decoding_equals_a_run_without_cache(attention, name, skipped, batch):
    example = model_of(attention=attention)
    inputs = double(example.inputs(batch)) if attention == "sdpa" else example.inputs(batch)
    chosen = policy(name, skipped, example.model.dtype)
    with attach(example.model, chosen), steps_logits(example.model) as cached:
        sequences = example.model.generate(**inputs, **GREEDY)
    longer, prompt = continued(inputs, sequences)
    uncached = logits_by_hand(example.model, longer, skipped, chosen.adapters, prompt)
    tolerance = TOLERANCE if attention == "sdpa" else {"atol": 1e-4, "rtol": 1e-4}  # fp32
    torch.testing.assert_close(torch.stack(cached, 1), uncached[:, -6:], **tolerance)
    with attach(example.model, chosen):
        no_cache = example.model.generate(**inputs, **GREEDY, use_cache=False) if name == "none" else sequences
    assert torch.equal(no_cache, sequences)


def continued(inputs, sequences):
    """Inputs that hold what was generated too, and which of their columns are the prompt."""
    length = inputs["input_ids"].shape[1]
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, sequences.shape[1] - 1 - length), value=1)
    longer = {**inputs, "input_ids": sequences[:, :-1], "attention_mask": mask}
    longer["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return longer, (torch.arange(mask.shape[1]) < length).expand_as(mask)


@pytest.mark.parametrize(
    ("family", "name", "skipped"),
    [("llava", "none", (0,)), ("llava", "recommended", (0, 3)), ("llava_onevision", "published", (2, 3))],
)
def test_a_batch_equals_its_rows_one_by_one(family, name, skipped):
    from test_equalities import one_by_one

    example = model_of(family)
    inputs = double(example.inputs("left_padded"))
    with attach(example.model, policy(name, skipped)):
        with steps_logits(example.model) as together:
            example.model.generate(**inputs, **GREEDY)
        for row, alone in enumerate(one_by_one(example, inputs)):
            with steps_logits(example.model) as single:
                example.model.generate(**alone, **GREEDY)
            torch.testing.assert_close(torch.stack(together)[:, row], torch.stack(single)[:, 0], **TOLERANCE)


@pytest.mark.parametrize(("name", "skipped"), [("none", (0,)), ("recommended", (0, 3)), ("published", (2, 3))])
def test_beams_carry_each_row_s_context_along(name, skipped):
    example = model_of()
    inputs = double(example.inputs("left_padded"))
    beams = {**GREEDY, "num_beams": 3, "num_return_sequences": 3}
    with attach(example.model, policy(name, skipped)) as run:
        cached = example.model.generate(**inputs, **beams)
        images = example.inputs("left_padded")["pixel_values"]
    assert run.trace.skipped == list(skipped)
    assert len(cached) == 12
    # Beam search without any cache: every step reads the whole sequences, contexts still those of the prompts.
    real = example.model.forward
    prompt = inputs["input_ids"].shape[1]

    def whole(*args, **kwargs):
        ids = kwargs["input_ids"]
        late = (torch.arange(ids.shape[1]) >= prompt).expand_as(ids)
        with run.answer_columns(late):
            return real(*args, **kwargs)

    # The vision inputs of one prompt serve its three beams.
    repeated = {**inputs, "pixel_values": _for_beams(images.double(), 3)}
    expanded = {k: (v.repeat_interleave(3, 0) if k != "pixel_values" else v) for k, v in repeated.items()}
    with torch.no_grad(), attach(example.model, policy(name, skipped)) as run:
        longer = dict(expanded)
        longer["input_ids"] = cached[:, :-1]
        longer["attention_mask"] = torch.nn.functional.pad(
            expanded["attention_mask"], (0, cached.shape[1] - 1 - prompt), value=1
        )
        longer["position_ids"] = (longer["attention_mask"].cumsum(1) - 1).clamp(min=0)
        logits = whole(**longer, use_cache=False).logits[:, -6:].log_softmax(-1)
    with attach(example.model, policy(name, skipped)):
        scored = example.model.generate(**inputs, **beams, return_dict_in_generate=True, output_scores=True)
    new = cached[:, -6:]
    sums = logits.gather(2, new[..., None]).sum((1, 2))
    # Before 5.20, transformers gives the beams of a row with two pictures different pairs of them, attached or not.
    known = slice(None) if VERSION >= (5, 20) else slice(9)
    torch.testing.assert_close(scored.sequences_scores.double()[known], sums[known] / 6, atol=1e-5, rtol=1e-5)


def _for_beams(pictures, beams):
    """Pictures of rows with 1, 1, 0 and 2 of them, a row's pictures once a beam."""
    rows = [pictures[0:1], pictures[1:2], pictures[2:2], pictures[2:4]]
    return torch.cat([row for row in rows for _ in range(beams)])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch", ["left_padded", "right_padded"])
@pytest.mark.parametrize(("name", "skipped"), [("none", (0,)), ("recommended", (0, 3))])
def test_a_static_cache_will_do(name, skipped, batch, attention):
    example = model_of(attention=attention)
    inputs = double(example.inputs(batch)) if attention == "sdpa" else example.inputs(batch)
    chosen = policy(name, skipped, example.model.dtype)
    with attach(example.model, chosen), steps_logits(example.model) as usual:
        example.model.generate(**inputs, **GREEDY)
    with attach(example.model, chosen), steps_logits(example.model) as static:
        example.model.generate(**inputs, **GREEDY, cache_implementation="static", disable_compile=True)
    tolerance = TOLERANCE if attention == "sdpa" else {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(torch.stack(usual), torch.stack(static), **tolerance)


@pytest.mark.skipif(OLD, reason="transformers before 5.17 compiles decoding otherwise")
def test_a_compiled_decode_runs_eagerly_and_says_the_same():
    torch._dynamo.reset()
    compiled = CompileConfig(backend="eager", mode=None)
    compiled._compile_all_devices = True
    example = model_of()
    inputs, chosen = double(example.inputs("left_padded")), policy("recommended", (0, 3), example.model.dtype)
    with attach(example.model, chosen):
        usual = example.model.generate(**inputs, **GREEDY)
        graph = example.model.generate(**inputs, **GREEDY, cache_implementation="static", compile_config=compiled)
    torch._dynamo.reset()
    assert torch.equal(usual, graph)


@pytest.mark.parametrize(("name", "skipped"), [("none", (0,)), ("recommended", (0, 3))])
def test_a_static_cache_holds_slots_and_knows_its_length(name, skipped):
    example = model_of()
    with torch.no_grad(), attach(example.model, policy(name, skipped)):
        cache = StaticCache(example.model.config.text_config, max_cache_len=64)
        example.model(**double(example.inputs()), past_key_values=cache)
        assert isinstance(cache.layers[0], SkippedSlot)
        assert int(cache.get_seq_length()) == 27


def test_a_mask_that_is_not_causal_is_refused_with_a_static_cache_too():
    example = model_of()
    cache = StaticCache(example.model.config.text_config, max_cache_len=64)
    mask = torch.ones(1, 1, 27, 64, dtype=torch.bool)  # every token sees every other
    inputs = {**double(example.inputs()), "attention_mask": mask}
    with attach(example.model, policy("none", (0,))), pytest.raises(UnsupportedModel, match=r"must be \[B, S\]"):
        example.model(**inputs, past_key_values=cache)
    refused = pytest.raises(UnsupportedModel, match="attention of layers is skipped")
    with attach(example.model, la.chain(policy("none", (0,)), la.ExitAt(2))), refused:
        example.model(**double(example.inputs()), past_key_values=cache)


def test_a_cache_copied_and_cropped_goes_on():
    example = model_of()
    inputs = double(example.inputs())
    more = torch.randint(10, 90, (1, 3), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), attach(example.model, policy("recommended", (0, 2))):
        cache = example.model(**inputs, use_cache=True).past_key_values
        other = copy.deepcopy(cache)
        first = example.model(input_ids=more, past_key_values=cache).logits
        example.model(input_ids=more[:, :1], past_key_values=other)
        example.model(input_ids=more[:, 2:], past_key_values=other)  # a wrong guess, taken back
        other.crop(-1)
        again = example.model(input_ids=more[:, 1:], past_key_values=other).logits
    torch.testing.assert_close(first[:, 1:], again, **TOLERANCE)


# the tail ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("skipped", "batch", "needed"),
    [((3,), "single", 1), ((1, 2, 3), "left_padded", 1), ((0, 2, 3), "left_padded", 3), ((2, 3), "right_padded", 3)],
)
def test_only_what_is_needed_runs_behind_the_last_attention_and_nothing_changes(name, skipped, batch, needed):
    example = model_of()
    inputs = double(example.inputs(batch))
    with torch.no_grad(), attach(example.model, policy(name, skipped)) as run:
        whole = example.model(**inputs).logits
        assert run.trace.tail is None
        cut = example.model(**inputs, logits_to_keep=needed).logits
    assert cut.shape[1] == needed
    real = inputs["attention_mask"].bool()[:, -needed:]
    torch.testing.assert_close(cut[real], whole[:, -needed:][real], **TOLERANCE)
    trace, rows = run.trace, len(whole)
    assert trace.tail is not None
    assert trace.tokens[-1] == [int(row.sum()) for row in real]
    assert trace.exit_layers == [None] * rows  # nobody decided anything
    index, _ = run.kept_columns()
    assert torch.equal(index, torch.arange(whole.shape[1] - needed, whole.shape[1]).expand(rows, -1))
    shape = SHAPES[name]
    first = len(skipped) - 1 if 0 in skipped else len(skipped)
    first = 4 - first  # the tail begins behind the last attention
    if shape is None or shape.pool == "none" or shape.once:
        assert trace.tail == first
    elif shape.pool == "text":
        assert trace.tail == first
        if first < 3:  # visual tokens leave at once, text stays until it was pooled for the last time
            assert trace.visual_tokens[first] == [0] * rows
            assert trace.tokens[first] == [int(n) for n in (run._here.latest.initial.text).sum(1)]
    else:
        assert trace.tail == 3


@pytest.mark.parametrize("name", ["none", "recommended", "published"])
@pytest.mark.parametrize("skipped", [(0,), (2, 3)])
def test_counted_flops_are_those_of_the_trace(name, skipped):
    example = tiny("llava")
    inputs = example.inputs()
    made = adapters(name, skipped, dtype=torch.float32)
    with attach(example.model, la.AttentionSkip(skipped, made)) as run:
        found = counted_flops(lambda: example.model(**inputs, logits_to_keep=1))
    cost, shape = run.trace.cost(), run.trace.shape
    rest = counted_flops(lambda: example.model.get_image_features(inputs["pixel_values"])) + 2 * 32 * shape.vocab_size
    rotary = 2 * inputs["input_ids"].shape[1] * (shape.head_dim // 2)
    assert found - rest - cost.flops in (0, rotary)
    assert cost.flops < cost.full_flops
    assert cost.kv_share == 1 - len(skipped) / 4
    with torch.no_grad(), attach(example.model, la.KeepAll()) as plain:
        example.model(**inputs)
    assert plain.trace.cost().flops == cost.full_flops
    assert plain.trace.cost().kv_bytes == cost.full_kv_bytes


# with exits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attention", "name", "skipped", "exits"),
    [
        ("sdpa", "none", (2,), 2),
        ("sdpa", "recommended", (0,), 1),
        ("sdpa", "published", (0, 1), [2, 3, None, 1]),
        ("sdpa", "recommended", (1, 3), [1, 2, 3, 2]),
        ("eager", "published", (1, 3), [1, 2, 3, 2]),
    ],
)
def test_skipping_and_removal_together_equal_masking(attention, name, skipped, exits):
    example = model_of(attention=attention)
    inputs = example.inputs("left_padded")
    inputs = double(inputs) if attention == "sdpa" else inputs
    both = la.chain(policy(name, skipped, example.model.dtype), la.ExitAt(exits))
    results = []
    for how in (attach, reference):
        with how(example.model, both) as run, steps_logits(example.model) as logits:
            results.append((example.model.generate(**inputs, **FULL), run.trace, torch.stack(logits)))
    (fast, trace, fast_logits), (slow, slow_trace, slow_logits) = results
    assert torch.equal(fast.sequences, slow.sequences)
    tolerance = TOLERANCE if attention == "sdpa" else {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(fast_logits, slow_logits, **tolerance)
    assert trace.skipped == slow_trace.skipped == list(skipped)
    given = [exits] * 4 if isinstance(exits, int) else exits
    assert [found for found in trace.exit_layers if found is not None]
    assert all(found in (wanted, None) for found, wanted in zip(trace.exit_layers, given, strict=True))
    held = [layer.keys.shape[2] - 5 for i, layer in enumerate(fast.past_key_values.layers) if i not in skipped]
    assert held == [n for i, n in enumerate(trace.cache_slots) if i not in skipped]


def test_an_exit_in_front_of_the_first_attention_that_runs_keeps_its_length():
    """Layer 0 is skipped and the image leaves before layer 1: no cache holds the whole prompt, positions stay."""
    example = model_of()
    inputs = double(example.inputs())
    both = la.chain(policy("recommended", (0,)), la.ExitAt(1))
    with torch.no_grad(), attach(example.model, both):
        cache = example.model(**inputs, use_cache=True).past_key_values
        assert cache.get_seq_length() == 27
        assert cache.layers[1].keys.shape[2] == 27 - 16
        token = torch.tensor([[20]])
        with_cache = example.model(input_ids=token, past_key_values=cache).logits[:, -1]
        assert cache.get_seq_length() == 28
    with torch.no_grad(), attach(example.model, both) as run:
        longer = {**inputs, "input_ids": torch.cat([inputs["input_ids"], token], 1), "attention_mask": None}
        with run.answer_columns(torch.arange(28)[None] >= 27):
            without = example.model(**longer, use_cache=False).logits[:, -1]
    torch.testing.assert_close(with_cache, without, **TOLERANCE)


def test_text_contexts_do_not_notice_an_exit_in_a_run_of_skipped_layers():
    example = model_of()
    inputs = double(example.inputs("left_padded"))
    logits = {}
    for name in ("each-layer", "published"):
        for exits in (2, 3):
            with torch.no_grad(), attach(example.model, la.chain(policy(name, (2, 3)), la.ExitAt(exits))):
                logits[name, exits] = example.model(**inputs).logits[:, -1]
    torch.testing.assert_close(logits["each-layer", 2], logits["each-layer", 3], **TOLERANCE)
    assert (logits["published", 2] - logits["published", 3]).abs().max() > 1e-6  # pools what is left, image and all


def test_a_gate_and_a_skip_in_one_chain_are_saved_and_loaded(tmp_path):
    example = tiny("llava")
    torch.manual_seed(0)
    gates = la.ExitGates(32, (1, 3), width=8)
    both = la.chain(
        la.AttentionSkip((0, 2), adapters("recommended", (0, 2), dtype=torch.float32)), la.VisualExit(gates)
    )
    loaded = la.load(both.save_pretrained(tmp_path))
    outs = []
    for chosen in (both, loaded):
        with attach(example.model, chosen) as run:
            outs.append(example.model.generate(**example.inputs("left_padded"), **GREEDY))
            assert run.trace.skipped == [0, 2]
    assert torch.equal(*outs)
    with pytest.raises(SettingsError, match=r"Two policies of this chain skip the attention of layers \[2\]"):
        attach(example.model, la.chain(both, la.AttentionSkip((2,))))


# training ------------------------------------------------------------------------------------------------------------


def test_answers_cannot_change_the_context():
    example = model_of()
    inputs = double(example.inputs("left_padded"))
    answers = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    answers[:, -2:] = True
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:, -2:] = torch.randint(10, 90, (4, 2), generator=torch.Generator().manual_seed(5))
    with torch.no_grad(), attach(example.model, policy("published", (1, 3))) as run:
        with run.answer_columns(answers):
            same = [example.model(**batch).logits[:, :-2] for batch in (inputs, other)]
        torch.testing.assert_close(*same, **TOLERANCE)
        leaks = [example.model(**batch).logits[:, :-2] for batch in (inputs, other)]
        assert (leaks[0] - leaks[1])[inputs["attention_mask"][:, :-2].bool()].abs().max() > 1e-6
        with run.answer_columns(answers[:, 1:]), pytest.raises(DataError, match="mask of answers has shape"):
            example.model(**inputs)


@pytest.mark.parametrize("name", ["recommended", "each-layer", "published"])
def test_gradients_with_checkpointing_are_those_without(name):
    """Another subset runs between forward and backward: recomputed layers must still be those of the forward."""
    example = model_of()
    model, inputs = example.model, double(example.inputs("left_padded"))
    made = adapters(name, (0, 1, 2, 3)).train()
    for part in made.values():
        part.shape = replace(part.shape, dropout=0.0)
    gradients = []
    for checkpointing in (False, True):
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        made.zero_grad()
        with attach(model, la.chain(la.AttentionSkip((0, 2, 3), made), la.ExitAt(2))):
            loss = model(**inputs, use_cache=False).logits[:, -1].square().mean()
            if checkpointing:
                with torch.no_grad():
                    model(**double(example.inputs("single")), use_cache=False)
                    model(**inputs, use_cache=False)
            loss.backward()
        gradients.append({n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None})
    model.gradient_checkpointing_disable()
    model.eval()
    assert gradients[0].keys() == gradients[1].keys()
    assert {name.partition(".")[0] for name in gradients[0]} == {"0", "2", "3"}
    for key, value in gradients[0].items():
        assert value.abs().max() > 0, key
        torch.testing.assert_close(gradients[1][key], value, msg=key, **TOLERANCE)


# taking off ----------------------------------------------------------------------------------------------------------


def attributes(model):
    return {name: sorted(vars(module)) for name, module in model.named_modules()}


@pytest.mark.parametrize("how", [attach, reference])
@pytest.mark.parametrize("ending", ["quietly", "raising", "inside"])
def test_nothing_stays_behind(how, ending):
    example = model_of()
    model, inputs = example.model, double(example.inputs("left_padded"))
    with torch.no_grad():
        before = model(**inputs).logits
    state, names = {k: v.clone() for k, v in model.state_dict().items()}, attributes(model)
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
    with torch.no_grad():
        if ending == "quietly":
            with how(model, policy("published", (0, 2))):
                model(**inputs)
                assert list(model.state_dict()) == list(state)  # a model saved meanwhile is whole
        elif ending == "raising":
            with pytest.raises(KeyError), how(model, policy("recommended", (0, 2))):
                raise KeyError("the body's own")
        else:
            broken = policy("recommended", (0, 2))
            broken.adapters.replacement(2).changed = None
            with pytest.raises(TypeError), how(model, broken):
                model(**inputs)
        assert torch.equal(model(**inputs).logits, before)
    assert attributes(model) == names
    assert sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()) == hooks
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_forward_of_the_user_s_own_comes_back():
    """Other libraries (accelerate) put a forward of their own on modules."""
    example = model_of()
    attention = example.model.model.language_model.layers[1].self_attn
    own = attention.forward
    attention.forward = own
    with attach(example.model, la.AttentionSkip((1,))):
        assert attention.forward is not own
    assert vars(attention)["forward"] is own


# refusals ------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_before_anything_is_changed():
    example = tiny("llava")
    names = attributes(example.model)
    with pytest.raises(SettingsError, match=r"skips all 4 layers"):
        attach(example.model, la.AttentionSkip(range(4)))
    with pytest.raises(SettingsError, match=r"this decoder has 4 \(0 to 3\)"):
        attach(example.model, la.AttentionSkip((1, 4)))
    with pytest.raises(ModelMismatch, match="reads states of 16 numbers, but this model's have 32"):
        attach(example.model, la.AttentionSkip((1,), la.SkipAdapters(16, (1,)).eval()))
    norm = example.model.model.language_model.layers[1].post_attention_layernorm
    example.model.model.language_model.layers[1].post_attention_layernorm = torch.nn.LayerNorm(32)
    with pytest.raises(UnsupportedModel, match="LayerNorm is no plain RMS norm"):
        attach(example.model, la.AttentionSkip((1,), la.SkipAdapters(32, (1,), lavin_shape(8)).eval()))
    example.model.model.language_model.layers[1].post_attention_layernorm = norm
    del example.model.model.language_model.layers[2].input_layernorm
    with pytest.raises(UnsupportedModel, match=r"Decoder layer 2 .* has no norm"):
        attach(example.model, la.AttentionSkip((2,)))
    assert {k: v for k, v in attributes(example.model).items() if k in names} == {
        k: v for k, v in names.items() if "layers.2.input_layernorm" not in k
    }


def test_a_cache_that_was_filled_otherwise_is_refused():
    example = tiny("llava")
    model, inputs = example.model, example.inputs()
    token = {"input_ids": torch.tensor([[20]])}
    with torch.no_grad():
        plain = model(**inputs, use_cache=True).past_key_values
        skip = la.AttentionSkip((1,))
        with attach(model, skip), pytest.raises(AttachError, match="attention of layer 1 ran on what this KV cache"):
            model(**token, past_key_values=plain)
        with attach(model, skip):
            skipped = model(**inputs, use_cache=True).past_key_values
        with pytest.raises(AttachError, match="filled while the attention of some layers was skipped"):
            model(**token, past_key_values=skipped)
        with attach(model, la.AttentionSkip((2,))), pytest.raises(AttachError):
            model(**token, past_key_values=skipped)
