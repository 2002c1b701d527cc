"""Schedules: how many stay, where scores are asked for, what is refused, and how they join other policies."""

import math
from itertools import pairwise

import pytest
import torch
from test_common import view_of

import lookaway as la
from lookaway.anatomy.tiny import TINY, tiny
from lookaway.core.errors import SettingsError
from lookaway.policies.ranked import count_of
from lookaway.policies.ranking import RANKINGS, Ranking

KEEP = (1.0, 0.8, 0.8, 0.33)


@pytest.mark.parametrize("ranking", ["last-token", "diversity", "uniform"])
@pytest.mark.parametrize("family", TINY)
def test_counts_are_shares_of_each_rows_own_original_number(family, ranking):
    model = tiny(family)
    with torch.no_grad(), la.attach(model.model, la.KeepSchedule(KEEP, ranking=ranking)) as run:
        model.model(**model.inputs("left_padded"))
    first, *others = run.trace.visual_tokens
    assert len(set(first)) > 2 or family == "llava"  # pictures of several sizes, and a row without
    for share, counts in zip(KEEP[1:], others, strict=True):
        assert counts == [round(share * total) for total in first]


def test_counts_stand_as_they_are_but_for_rows_that_have_fewer():
    model = tiny("llava")
    with torch.no_grad(), la.attach(model.model, la.KeepSchedule([1.0, 20, 20, 5], ranking="uniform")) as run:
        model.model(**model.inputs("left_padded"))
    first, *others = run.trace.visual_tokens
    assert first == [16, 16, 0, 32]
    assert others == [[16, 16, 0, 20], [16, 16, 0, 20], [5, 5, 0, 5]]


@pytest.mark.parametrize(
    ("entry", "total", "expected"),
    [(1.0, 7, 7), (1, 7, 1), (0.5, 5, 2), (0.5, 7, 4), (0.999, 10, 10), (9, 7, 7), (0, 7, 0)],
)
def test_count_of(entry, total, expected):
    assert count_of(entry, total) == expected


def test_order_stays_and_what_left_never_comes_back():
    model = tiny("llava")
    policy = la.KeepSchedule([1.0, 0.7, 0.5, 0.2], ranking="random")
    seen = []
    usual = type(policy).decide

    class Watched(la.KeepSchedule):
        def decide(self, view):
            decision = usual(self, view)
            seen.append((view.layer, view.layout.visual, decision.keep))
            return decision

    with torch.no_grad(), la.attach(model.model, Watched([1.0, 0.7, 0.5, 0.2], ranking="random")) as run:
        model.model(**model.inputs("single"))
    index, valid = run.kept_columns()
    columns = index[0][valid[0]].tolist()
    assert columns == sorted(columns)
    assert [layer for layer, _, _ in seen] == [1, 2, 3]
    for (_, _, keep), (_, visual, _) in pairwise(seen):
        assert visual.shape[1] == int(keep.sum())


def test_steps_fill_the_layers_between():
    policy = la.KeepSchedule.from_steps({2: 0.5, 5: 0.25}, 8, ranking="uniform", seed=3)
    assert policy.keep == (1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25)
    assert (policy.ranking, policy.seed) == ("uniform", 3)
    assert policy.layers(8, 1) == (2, 5)
    assert la.KeepSchedule.from_steps({}, 4).layers(4, 1) == ()


def test_a_layer_with_the_count_of_the_one_before_is_not_asked_and_looks_at_nothing():
    policy = la.KeepSchedule([1.0, 1.0, 0.5, 0.5, 0.2, 0.0])
    assert policy.layers(6, 1) == (2, 4, 5)
    assert policy.needs_attention(6) == {2, 4}  # where all leave, nobody needs to know which
    assert la.KeepSchedule([1.0, 0.5, 0.2], ranking="uniform").needs_attention(3) == frozenset()


def test_no_score_is_computed_where_rounding_leaves_every_count_as_it_was(monkeypatch):
    calls = []

    def score(view, wanted):
        calls.append((view.layer, wanted.counts))
        return torch.zeros(view.layout.visual.shape)

    monkeypatch.setitem(RANKINGS, "counted", Ranking("counted", "notes its calls", score))
    policy = la.KeepSchedule([1.0, 0.99, 0.5, 0.49], ranking="counted")  # rows have 6 or 0 visual tokens
    kept = [policy.decide(view_of(layer)).keep for layer in (1, 2, 3)]
    assert [keep is None for keep in kept] == [True, False, True]
    assert calls == [(2, (3, 3, 0, 3))]
    assert la.KeepSchedule([1.0, 0.5, 0.5, 0.0], ranking="counted").decide(view_of(3)).keep is not None
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ([1.0, 0.5, 0.6, 0.5], "0.5 before layer 1 and 0.6 before layer 2.*never come back"),
        ([1.0, 5, 6, 5], "5 before layer 1 and 6 before layer 2"),
        ([1.0, 0.5, 1.0, 0.5], "0.5 before layer 1 and 1.0 before layer 2"),
        ([1.0, 0.0, 0.5, 0.5], "must not grow"),
        ([1.0, 0, 3, 3], "must not grow"),
        ([1.0, 0.5, 3, 2], "mixes counts"),
        ([1, 0.5, 0.5, 0.5], r"mixes counts.*1\.0 is all"),
        ([1.0, 1.5, 0.5, 0.5], r"1\.5, which is a share above 1.*as an int \(2\)"),
        ([1.0, -1, -1, -1], "keeps -1"),
        ([1.0, math.nan, 0.5, 0.5], "keeps nan"),
        ([1.0, True, 0.5, 0.5], "keeps True"),
        ([1.0, "all", 0.5, 0.5], "keeps 'all'"),
        ([], "one entry a decoder layer"),
        (0.5, "one entry a decoder layer"),
        ("fast", "one entry a decoder layer"),
    ],
)
def test_schedules_that_cannot_be_are_refused(keep, words):
    with pytest.raises(SettingsError, match=words):
        la.KeepSchedule(keep)


def test_what_does_not_fit_the_model_is_refused_when_attached():
    model = tiny("llava").model
    with pytest.raises(SettingsError, match="has 3 entries, but the model has 4"):
        la.attach(model, la.KeepSchedule([1.0, 0.5, 0.5]))
    with pytest.raises(SettingsError, match=r"before the decoder.*'last-token'.*Begin at layer 1"):
        la.attach(model, la.KeepSchedule([0.9, 0.5, 0.5, 0.5]))
    with pytest.raises(SettingsError, match=r"before layer 2 \(it keeps 0\.5\).*from layer 3 on"):
        la.KeepSchedule([1.0, 1.0, 0.5, 0.5]).layers(4, 3)
    with pytest.raises(SettingsError, match=r"before the decoder.*'last-token'"):
        la.KeepSchedule([4, 4, 2, 2]).layers(4, 1)
    with pytest.raises(SettingsError, match="No ranking named 'last'"):
        la.KeepSchedule(KEEP, ranking="last")
    with pytest.raises(SettingsError, match=r"before layer \d.*cannot be numbered anew.*positions='original'"):
        la.attach(model, la.KeepSchedule(KEEP, positions="renumber"))
    with pytest.raises(SettingsError, match="'original', 'renumber', not 'new'"):
        la.KeepSchedule(KEEP, positions="new")
    with pytest.raises(SettingsError, match="layers 0 to 3"):
        la.KeepSchedule.from_steps({4: 0.5}, 4)
    la.attach(model, la.KeepSchedule(KEEP)).detach()  # nothing of the refused ones is left


def test_a_schedule_and_then_an_exit():
    """Rows that exit are gone, the others follow the schedule; both ways agree in every layer and in decoding."""
    model = tiny("llava")
    inputs = model.inputs("left_padded")
    policy = la.chain(la.KeepSchedule([1.0, 0.75, 0.5, 0.25], ranking="question-mean"), la.ExitAt([2, None, None, 3]))
    results = []
    for how in (la.attach, la.reference):
        with how(model.model, policy) as run:
            out = model.model.generate(
                **inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
        results.append((run.trace, torch.stack(out.logits)))
    (trace, fast), (other, slow) = results
    assert trace == other
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    assert trace.visual_tokens == [[16, 16, 0, 32], [12, 12, 0, 24], [0, 8, 0, 16], [0, 4, 0, 0]]
    assert trace.exit_layers == [2, None, None, 3]


def test_settings_survive_the_disk_and_unknown_ones_are_named(tmp_path):
    policy = la.KeepSchedule([1.0, 1.0, 40, 0], ranking="random", seed=7)
    loaded = la.load(policy.save_pretrained(tmp_path))
    assert loaded == policy
    assert [type(entry) for entry in loaded.keep] == [float, float, int, int]
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"seed"', '"seeed"'))
    with pytest.raises(
        la.LookawayError,
        match=r"keep-schedule: there is no setting 'seeed'\. Did you mean 'seed'\? Known: keep, ranking, seed",
    ):
        la.load(tmp_path)
