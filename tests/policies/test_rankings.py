"""Each ranking against a slow loop over rows, tokens and heads that says in plain words what it is."""

import math

import pytest
import torch
from test_common import view_of

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.attention_inputs import AttentionInputs
from lookaway.core.decision import LayerView
from lookaway.core.errors import LookawayError, SettingsError
from lookaway.core.layout import TokenLayout
from lookaway.policies.ranking import RANKINGS, Wanted, keep_best, ranking_named
from lookaway.policies.ranking.blind import hashed
from lookaway.policies.ranking.states import duplication_to

WANTED = Wanted((3, 4, 0, 2), seed=1)


def scores_of(name, view, wanted=WANTED):
    scores = RANKINGS[name].score(view, wanted)
    assert scores.shape == view.layout.visual.shape
    return scores


def attention_row(view, row, head, query, rotary=True):
    """One row of an attention map, by its definition."""
    seen = view.attention_inputs
    queries, keys = (seen.queries, seen.keys) if rotary else seen.plain()
    group = head // (queries.shape[1] // keys.shape[1])
    weights = [
        math.exp(float(queries[row, head, query] @ keys[row, group, key]) * seen.scaling)
        if key <= query and seen.real[row, key]
        else 0.0
        for key in range(keys.shape[2])
    ]
    return torch.tensor(weights) / sum(weights)


def question_slots(view, row):
    visual = view.layout.visual[row].nonzero().flatten().tolist()
    return [s for s in view.layout.text[row].nonzero().flatten().tolist() if visual and s > visual[0]]


def heads(view):
    return range(view.attention_inputs.queries.shape[1])


def slow_attention(name, view, row):
    rotary = "no-rotary" not in name
    text = view.layout.text[row].nonzero().flatten().tolist()
    visual = view.layout.visual[row].nonzero().flatten().tolist()
    queries = {"last-token": text[-1:], "last-visual": visual[-1:]}.get(
        name.removesuffix("-no-rotary"), question_slots(view, row)
    )
    rows = [torch.stack([attention_row(view, row, head, q, rotary) for head in heads(view)]) for q in queries]
    merged = [r.amax(0) if name == "question-head-max" else r.mean(0) for r in rows]
    return torch.stack(merged).mean(0)


@pytest.mark.parametrize(
    "name",
    [
        "last-token", "last-token-no-rotary", "last-visual", "question-mean", "question-mean-no-rotary",
        "question-head-max",
    ],
)  # fmt: skip
def test_attention_rankings(name):
    view = view_of(2)
    scores = scores_of(name, view)
    for row in (0, 1, 3):  # the third has no image
        visual = view.layout.visual[row]
        torch.testing.assert_close(scores[row, visual], slow_attention(name, view, row)[visual], atol=1e-6, rtol=1e-4)


def test_many_query_rows_are_taken_in_parts(monkeypatch):
    whole = scores_of("question-mean", view_of(2))
    monkeypatch.setattr("lookaway.policies.ranking.attention.CHUNK", 2)
    torch.testing.assert_close(scores_of("question-mean", view_of(2)), whole)


def unit(view, row):
    states = view.hidden[row].float()
    return states / states.norm(dim=1, keepdim=True)


def test_text_raters():
    view = view_of(2)
    scores = scores_of("text-raters", view)
    chosen = []
    for row in (0, 1, 3):
        states, visual, question = unit(view, row), view.layout.visual[row], question_slots(view, row)
        shares = []
        for token in visual.nonzero().flatten():
            dots = torch.stack([states[token] @ states[q] for q in question]) * math.sqrt(states.shape[1])
            shares.append(dots.softmax(0))
        mean = torch.stack(shares).mean(0)
        raters = [q for q, share in zip(question, mean, strict=True) if share >= mean.mean() - 1e-6]
        chosen.append(len(raters) / len(question))
        rows = [torch.stack([attention_row(view, row, h, q) for h in heads(view)]).mean(0) for q in raters]
        torch.testing.assert_close(scores[row, visual], torch.stack(rows).mean(0)[visual], atol=1e-6, rtol=1e-4)
    assert min(chosen) < 1  # some question token is no rater


def test_text_similarity_orders_by_the_cosine_to_the_mean_direction_of_the_question():
    view = view_of(2)
    scores = scores_of("text-similarity", view)
    for row in (0, 1, 3):
        states, visual = unit(view, row), view.layout.visual[row]
        mean = states[question_slots(view, row)].mean(0)
        slow = torch.stack([states[s] @ mean / mean.norm() for s in visual.nonzero().flatten()])
        assert torch.equal(scores[row, visual].argsort(), slow.argsort())


def test_key_norm():
    view = view_of(2)
    visual = view.layout.visual
    slow = torch.stack([k.norm(dim=-1) for k in view.attention_inputs.keys.unbind(1)]).mean(0)
    torch.testing.assert_close(scores_of("key-norm", view)[visual], slow[visual])
    torch.testing.assert_close(scores_of("key-norm-low", view)[visual], -slow[visual])


def slow_diverse(states, slots, count):
    def distance(a, b):
        return 1 - float(states[a] @ states[b])

    chosen = [max(slots, key=lambda a: min(distance(a, b) for b in slots if b != a))]
    while len(chosen) < count:
        left = [s for s in slots if s not in chosen]
        chosen.append(max(left, key=lambda a: min(distance(a, b) for b in chosen)))
    return chosen


@pytest.mark.parametrize("chunk", [256, 5])
def test_diversity_is_the_greedy_max_min_choice(chunk, monkeypatch):
    monkeypatch.setattr("lookaway.policies.ranking.states.CHUNK", chunk)
    view = view_of(2, slots=24)
    scores = scores_of("diversity", view)
    kept = keep_best(view, scores, torch.tensor(WANTED.counts))
    for row in (0, 1, 3):
        slots = view.layout.visual[row].nonzero().flatten().tolist()
        slow = slow_diverse(unit(view, row), slots, WANTED.counts[row])
        found = [s for s in slots if kept[row, s]]
        assert found == sorted(slow)
        order = sorted(found, key=lambda s: -float(scores[row, s]))
        assert order == slow


def test_diversity_takes_one_of_two_equal_tokens():
    view = view_of(2)
    view.hidden[0, 4] = 3 * view.hidden[0, 3]
    kept = keep_best(view, scores_of("diversity", view, Wanted((5, 5, 0, 5))), torch.tensor([5, 5, 0, 5]))
    assert int(kept[0, 3:5].sum()) == 1


@pytest.mark.parametrize("pivots", [1, 2, 100])
def test_duplication_keeps_pivots_and_what_is_least_like_them(pivots):
    view = view_of(2)
    scores = duplication_to(view, WANTED, pivots)
    for row in (0, 1, 3):
        slots = view.layout.visual[row].nonzero().flatten().tolist()
        norms = view.attention_inputs.keys[row].norm(dim=-1).mean(0)
        long = sorted(slots, key=lambda s: -float(norms[s]))[:pivots]
        states = unit(view, row)
        others = sorted(
            (s for s in slots if s not in long), key=lambda s: max(float(states[s] @ states[p]) for p in long)
        )
        assert sorted(slots, key=lambda s: -float(scores[row, s])) == long + others


@pytest.mark.parametrize("count", range(13))
def test_uniform_takes_the_wanted_number_as_evenly_as_can_be(count):
    total = 12
    layout = TokenLayout.from_masks(torch.tensor([[False] * 2 + [True] * total + [False]]))
    view = LayerView(1, 4, layout, torch.zeros(1, total + 3, 2), layout.visual_counts)
    kept = keep_best(view, scores_of("uniform", view, Wanted((count,))), torch.tensor([count]))
    taken = (kept & layout.visual)[0, 2:-1].nonzero().flatten()
    assert len(taken) == count
    gaps = {*taken.diff().tolist()}
    if count > 1:
        assert gaps <= {total // count, -(-total // count)}
        assert abs(int(taken[0]) - (total - 1 - int(taken[-1]))) <= total // count


def test_hashed_numbers_are_even_and_without_pattern():
    numbers = torch.arange(20_000)
    draws = torch.stack([hashed(numbers, key) for key in (0, 1, 2)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert torch.equal(draws[0], hashed(numbers, 0))
    counts = torch.stack([torch.histc(d, 20, 0, 1) for d in draws])
    assert (counts - 1000).abs().max() < 150  # 5 standard deviations
    between = torch.corrcoef(torch.cat([draws, draws[:1].roll(1, 1)]))
    assert (between - torch.eye(4)).abs().max() < 0.03
    expected = _splitmix(7 * 0x9E3779B97F4A7C15 + 3 * 0xD1B54A32D192ED03)
    assert float(hashed(torch.tensor(7), 3)) == expected


def _splitmix(x):
    mask = (1 << 64) - 1
    x &= mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return ((x ^ (x >> 31)) >> 40) / 2**24


def test_random_depends_on_seed_layer_and_prompt_and_on_no_global_state():
    def draw(layer=2, seed=1, view_seed=0):
        view = view_of(layer, seed=view_seed)
        return RANKINGS["random"].score(view, Wanted(WANTED.counts, seed))[view.layout.visual]

    state = torch.get_rng_state()
    first = draw()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, draw())
    for other in (draw(layer=1), draw(seed=2), draw(view_seed=1)):
        assert (first - other).abs().max() > 0.05


def test_random_keeps_every_place_equally_often():
    """Over 400 prompts each of 40 places stays about half the time, and neighbours do not hang together."""
    draw = torch.Generator().manual_seed(0)
    layout = TokenLayout.from_masks(torch.ones(400, 40, dtype=torch.bool))
    hidden = torch.randn(1, 40, 16, generator=draw) + 0.3 * torch.randn(400, 40, 16, generator=draw)
    view = LayerView(1, 4, layout, hidden, layout.visual_counts)
    kept = keep_best(view, RANKINGS["random"].score(view, Wanted((20,) * 400)), torch.full((400,), 20)).double()
    share = kept.mean(0)
    assert share.min() > 0.5 - 0.125  # 5 standard deviations
    assert share.max() < 0.5 + 0.125
    neighbours = torch.corrcoef(torch.stack([kept[:, :-1].flatten(), kept[:, 1:].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 0.1


@pytest.mark.parametrize("name", RANKINGS)
def test_scores_of_a_row_do_not_depend_on_the_batch(name):
    """With rows of other length beside it, on the other side of padding, a row keeps the same tokens."""
    example = tiny("llava")
    example.model.double()
    batch = example.inputs("left_padded")
    policy = la.KeepSchedule([1.0, 0.6, 0.6, 0.2], ranking=name)
    with torch.no_grad(), la.attach(example.model, policy) as run:
        example.model(**batch)
    together = run.kept_columns()
    images = {0: slice(0, 1), 1: slice(1, 2), 3: slice(2, 4)}
    for row, pictures in images.items():
        real = batch["attention_mask"][row].bool()
        alone = {
            "input_ids": batch["input_ids"][row : row + 1, real],
            "attention_mask": batch["attention_mask"][row : row + 1, real],
            "pixel_values": batch["pixel_values"][pictures],
        }
        with torch.no_grad(), la.attach(example.model, policy) as run:
            example.model(**alone)
        index, valid = run.kept_columns()
        padding = int((~real).sum())
        assert (index[valid] + padding).tolist() == together[0][row][together[1][row]].tolist()


@pytest.mark.parametrize("name", RANKINGS)
def test_rows_of_one_visual_token_and_of_none(name):
    visual = torch.zeros(2, 6, dtype=torch.bool)
    visual[0, 2] = True
    layout = TokenLayout.from_masks(visual)
    draw = torch.Generator().manual_seed(0)
    base = view_of(1)
    hidden = torch.randn(2, 6, base.hidden.shape[2], generator=draw)
    attention_inputs = view_of(1, rows=2, slots=6 + 8).attention_inputs
    attention_inputs = AttentionInputs(
        attention_inputs.queries[:, :, :6], attention_inputs.keys[:, :, :6], ~layout.padding, 0.3,
        lambda: (attention_inputs.queries[:, :, :6], attention_inputs.keys[:, :, :6]),
    )  # fmt: skip
    view = LayerView(1, 4, layout, hidden, layout.visual_counts, attention_inputs)
    kept = keep_best(view, RANKINGS[name].score(view, Wanted((1, 0))), torch.tensor([1, 0]))
    assert bool(kept.all())
    kept = keep_best(view, RANKINGS[name].score(view, Wanted((0, 0))), torch.tensor([0, 0]))
    assert torch.equal(kept, ~visual)


def test_keep_best_takes_the_first_of_equals_and_all_where_a_row_has_fewer():
    view = view_of(1)
    scores = torch.zeros(view.layout.visual.shape)
    scores[:, 0] = 9  # text, which is kept anyway
    scores[0, 8] = torch.nan
    scores[1, 8] = 1
    kept = keep_best(view, scores, torch.tensor([2, 2, 2, 99])) & view.layout.visual
    assert [row.nonzero().flatten().tolist() for row in kept] == [[3, 4], [3, 8], [], [3, 4, 5, 6, 7, 8]]


def test_unknown_names_and_missing_attention_are_errors():
    with pytest.raises(SettingsError, match=r"'last-tokn'.*Did you mean 'last-token'"):
        ranking_named("last-tokn")
    view = view_of(1)
    view = LayerView(view.layer, view.num_layers, view.layout, view.hidden, view.initial_visual)
    for name, ranking in RANKINGS.items():
        assert ranking.name == name
        assert ranking.line
        if ranking.looks:
            with pytest.raises(LookawayError, match="needs_attention"):
                ranking.score(view, WANTED)
        else:
            ranking.score(view, WANTED)
