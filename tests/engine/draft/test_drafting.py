"""Answers that are drafted are the answers without a draft: every family, what was removed, windows, ends and turns."""

import pytest
import torch
from drafted_by_hand import GREEDY, early_exit, rounds, shortened_model
from test_twig import MIXED, random_twig, shortened

import lookaway as la
from lookaway.anatomy.tiny import TINY, tiny
from lookaway.core.errors import UnsupportedModel

LENGTH = 10
REMOVES = {
    "nothing": lambda: la.KeepAll(),
    "around K": lambda: la.KeepSchedule([1.0, 0.7, 0.4, 0.2]),
    "before the decoder": lambda: la.UniformKeep(0.5, layer=0),
}


def drafts(model, start=2):
    return {"early exit": la.Draft(start, 3, 0.0), "twig": la.Draft(twig_of(model, start), 3, 0.0)}


def twig_of(model, start=2):
    return la.Twig(start=start, depth=1, weights=random_twig(model, start))


def answers(model, inputs, policy, draft=None, **options):
    """What `generate` gives: (ids, scores [n, V], run)."""
    options = {"max_new_tokens": LENGTH, "min_new_tokens": LENGTH, **GREEDY, **options}
    with la.attach(model, policy, draft=draft) as run:
        found = model.generate(**inputs, **options, return_dict_in_generate=True, output_scores=True)
    return found.sequences, torch.cat(found.scores), run


def same(one, other):
    assert torch.equal(one[0], other[0])
    torch.testing.assert_close(one[1], other[1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", TINY)
def test_every_family(family):
    """By early exit and by a twig, behind layers that lost tokens."""
    model, inputs = tiny(family).model, tiny(family).inputs()
    policy = REMOVES["around K"]()
    plain = answers(model, inputs, policy)
    for draft in drafts(model).values():
        found = answers(model, inputs, policy, draft)
        same(found, plain)
        assert found[2].trace.drafted >= found[2].trace.checks > 0


@pytest.mark.parametrize("family", [family for family in TINY if family not in MIXED])
def test_the_published_shape(family):
    """A twig with K = 2 and T = 3 that ranks and drafts, of a decoder that goes on behind it; a prompt with padding."""
    made = tiny(family, num_layers=6)
    wide = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
    inputs = {n: torch.nn.functional.pad(v, (4, 0)) if n in wide else v for n, v in made.inputs().items()}
    twig = la.Twig(start=2, depth=3, keep=0.5, final=5, weights=random_twig(made.model, 2, 3))
    found = answers(made.model, inputs, twig, la.Draft(twig, 3, 0.0))
    same(found, answers(made.model, inputs, twig))
    assert found[2].trace.drafted >= found[2].trace.checks > 0


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen2_5_vl"])
def test_it_is_the_answer_without_a_cache(family):
    model, inputs = tiny(family).model, tiny(family).inputs()
    plain = answers(model, inputs, la.ExitAt(2), use_cache=False)
    for draft in drafts(model, 3 if family == "gemma3" else 2).values():
        same(answers(model, inputs, la.ExitAt(2), draft), plain)


@pytest.mark.parametrize("removes", REMOVES)
@pytest.mark.parametrize("by", ["early exit", "twig"])
@pytest.mark.parametrize("start", [1, 3])
def test_wherever_the_draft_ends(start, by, removes):
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    draft = drafts(model, start)[by]
    same(answers(model, inputs, REMOVES[removes](), draft), answers(model, inputs, REMOVES[removes]()))


@pytest.mark.parametrize(("family", "attention"), [("gemma3", "eager"), ("gemma3", "sdpa"), ("ovis2", "sdpa")])
def test_windows_that_guessed_tokens_leave(family, attention):
    """Keys that a refused guess pushed out of a window come back."""
    made = tiny(family, attn_implementation=attention)
    policy, options = la.ExitAt(1), {"max_new_tokens": 20}
    plain = answers(made.model, made.inputs(), policy, **options)
    for draft in drafts(made.model).values():
        same(answers(made.model, made.inputs(), policy, draft, **options), plain)


@pytest.mark.parametrize("by", ["early exit", "twig"])
@pytest.mark.parametrize("confidence", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("removes", ["nothing", "behind K"])
def test_the_trace_says_what_a_draft_by_hand_does(removes, confidence, by):
    """Guesses, acceptance and length of the drafts, by whole forwards without a cache."""
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    policy = la.KeepAll() if removes == "nothing" else la.ExitAt(3)
    draft = la.Draft(2 if by == "early exit" else twig_of(model), 3, confidence)
    ids, _, run = answers(model, inputs, policy, draft)
    answer = ids[0, inputs["input_ids"].shape[1] :].tolist()
    if by == "twig":
        guess = shortened_model(shortened("llava", random_twig(model)))
    else:
        guess = early_exit(model, la.anatomy(model), 2)
    expected = rounds(guess, inputs, answer, 3, confidence)
    trace = run.trace
    assert (trace.drafted, trace.accepted, trace.checks) == expected
    assert trace.acceptance == expected[1] / expected[0]
    assert str(trace).endswith(f"; {expected[1]} of {expected[0]} guessed tokens accepted")


@pytest.mark.parametrize("policy", [la.KeepAll(), la.ExitAt(1), la.UniformKeep(0.5, layer=0)], ids=str)
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "internvl", "glm4v", "mistral3"])
def test_a_twig_that_is_the_rest_of_the_model_is_always_right(family, policy):
    """So its own cache holds what the model's layers hold, whatever was accepted before."""
    model, inputs = tiny(family).model, tiny(family).inputs()
    whole = la.Draft(la.Twig(start=2, depth=2), 3, 0.0)
    found = answers(model, inputs, policy, whole)
    same(found, answers(model, inputs, policy))
    assert found[2].trace.accepted == found[2].trace.drafted > 0


def test_one_twig_ranks_and_drafts_in_one_run():
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    weights, runs = random_twig(model, 2, 2), []
    twig = la.Twig(start=2, depth=2, keep=0.5, weights=weights)
    again = la.Twig(start=2, depth=2, weights={name: value.clone() for name, value in weights.items()})
    plain = answers(model, inputs, twig)
    with la.attach(model, la.chain(twig, la.ExitAt(3)), draft=la.Draft(again)) as run:
        assert run.drafting.twig is run.twig  # the same weights, read twice
        run.twig.layers[0].register_forward_pre_hook(lambda *_: runs.append(1))
        model.generate(**inputs, max_new_tokens=1)
    assert runs == [1]
    found = answers(model, inputs, twig, la.Draft(twig, 3, 0.0))
    same(found, plain)
    text = {"input_ids": torch.arange(20, 30)[None], "attention_mask": torch.ones(1, 10, dtype=torch.long)}
    with pytest.warns(UserWarning, match="no row of this batch has a visual token"):
        same(answers(model, text, twig, la.Draft(twig, 3, 0.0)), answers(model, text, la.KeepAll()))


@pytest.mark.parametrize("by", ["early exit", "twig"])
def test_an_answer_ends_where_it_would(by):
    """At its end token, wherever that is in a draft, and at its longest length."""
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    width, draft = inputs["input_ids"].shape[1], drafts(model)[by]
    ids = answers(model, inputs, la.ExitAt(2))[0][0, width:].tolist()
    for end in dict.fromkeys(ids[i] for i in (1, 3, 6)):
        options = {"eos_token_id": end, "min_new_tokens": None}
        plain = answers(model, inputs, la.ExitAt(2), **options)[0]
        assert plain.shape[1] == width + ids.index(end) + 1
        found = answers(model, inputs, la.ExitAt(2), draft, **options)
        assert torch.equal(found[0], plain)
    for length in (1, 2, 3):
        options = {"max_new_tokens": length, "min_new_tokens": length}
        found = answers(model, inputs, la.ExitAt(2), draft, **options)[0][0, width:].tolist()
        assert found == ids[:length]


@pytest.mark.parametrize("by", ["early exit", "twig", "the rest of the model"])
def test_an_end_token_that_was_guessed_counts_as_accepted(by):
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    anatomy, width = la.anatomy(model), inputs["input_ids"].shape[1]
    guess = (
        early_exit(model, anatomy, 2) if by == "early exit" else shortened_model(shortened("llava", random_twig(model)))
    )
    draft = drafts(model).get(by) or la.Draft(la.Twig(start=2, depth=2), 3, 0.0)
    ids = answers(model, inputs, la.KeepAll())[0][0, width:].tolist()
    for end in dict.fromkeys(ids[2:5]):
        found = answers(model, inputs, la.KeepAll(), draft, eos_token_id=end, min_new_tokens=None)
        answer, trace = found[0][0, width:].tolist(), found[2].trace
        assert answer == ids[: ids.index(end) + 1]
        if by == "the rest of the model":
            assert trace.accepted == trace.drafted
        else:
            expected = rounds(guess, inputs, answer, 3, 0.0, LENGTH, end)
            assert (trace.drafted, trace.accepted, trace.checks) == expected


def test_a_row_with_padding_penalties_and_a_streamer():
    class Streamer:
        tokens = []  # noqa: RUF012

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            pass

    model = tiny("llava").model
    inputs = {name: value[:1] for name, value in tiny("llava").inputs("left_padded").items()}
    inputs = {
        name: torch.nn.functional.pad(value, (5, 0)) if value.dim() == 2 else value for name, value in inputs.items()
    }
    options = {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2}
    for draft in drafts(model).values():
        Streamer.tokens = []
        plain = answers(model, inputs, la.ExitAt(2), **options)
        found = answers(model, inputs, la.ExitAt(2), draft, streamer=Streamer(), **options)
        same(found, plain)
        assert Streamer.tokens[-LENGTH:] == plain[0][0, -LENGTH:].tolist()


def test_nothing_stays_behind():
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    plain = answers(model, inputs, la.KeepAll())
    hooks = [(len(layer._forward_pre_hooks), len(layer._forward_hooks)) for layer in la.anatomy(model).layers]
    with la.attach(model, la.KeepAll(), draft=la.Draft(twig_of(model))):
        with pytest.raises(RuntimeError, match="stopped"):
            model.generate(**inputs, **GREEDY, max_new_tokens=4, streamer=_Stops())
        with torch.no_grad():  # a forward of its own is none of the draft's business
            one = model(**inputs).logits
    assert [(len(layer._forward_pre_hooks), len(layer._forward_hooks)) for layer in la.anatomy(model).layers] == hooks
    assert not {"generate", "_get_candidate_generator"} & set(vars(model))
    same(answers(model, inputs, la.KeepAll()), plain)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, one)


class _Stops:
    def put(self, value):
        if len(value.flatten()) < 5:
            raise RuntimeError("stopped")

    def end(self):
        pass


@pytest.mark.parametrize("by", ["early exit", "twig"])
def test_an_answer_within_an_answer(by):
    """A streamer that asks the model something itself: each answer, and what was guessed for it, is its own."""

    class Asks:
        calls, found = 0, None

        def put(self, value):
            self.calls += 1
            if self.calls == 3:
                self.found = model.generate(**other, **options)
                with torch.no_grad():
                    model(**other)

        def end(self):
            pass

    model, inputs, other = tiny("llava").model, tiny("llava").inputs(), tiny("llava", seed=1).inputs()
    options = {**GREEDY, "max_new_tokens": LENGTH, "min_new_tokens": LENGTH}
    draft, asks = drafts(model)[by], Asks()
    with la.attach(model, la.ExitAt(2)):
        plain = [model.generate(**given, **options) for given in (inputs, other)]
    with la.attach(model, la.ExitAt(2), draft=draft) as run:
        alone = []
        for given in (inputs, other):
            model.generate(**given, **options)
            alone.append(run.trace)
        assert torch.equal(model.generate(**inputs, **options, streamer=asks), plain[0])
        assert torch.equal(asks.found, plain[1])
        outer, inner, by_hand = run.traces[-3:]
    assert [outer.checks, inner.checks, by_hand.checks] == [alone[0].checks, alone[1].checks, 0]


def test_a_generate_that_somebody_kept_does_not_draft_once_detached():
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    plain = model.generate(**inputs, **GREEDY, max_new_tokens=4)
    with la.attach(model, la.ExitAt(2), draft=la.Draft(2)):
        kept = model.generate
    assert torch.equal(kept(**inputs, **GREEDY, max_new_tokens=4), plain)
    assert torch.equal(kept(**inputs, **GREEDY, max_new_tokens=4, num_beams=2)[:, :1], plain[:, :1])  # nor refuse


def test_detaching_in_the_middle_of_an_answer_is_refused():
    class Detaches:
        calls = 0

        def put(self, value):
            self.calls += 1
            if self.calls == 3:
                run.detach()

        def end(self):
            pass

    model, inputs = tiny("llava").model, tiny("llava").inputs()
    plain = model.generate(**inputs, **GREEDY, max_new_tokens=4)
    run = la.attach(model, la.ExitAt(2), draft=la.Draft(2))
    with pytest.raises(UnsupportedModel, match="Detach when generate has ended"):
        model.generate(**inputs, **GREEDY, max_new_tokens=9, min_new_tokens=9, streamer=Detaches())
    assert torch.equal(model.generate(**inputs, **GREEDY, max_new_tokens=4), plain)
