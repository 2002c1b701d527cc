"""The certificate holds at the stated rate, for single policies, chains of tests and second looks."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from lookaway.core.bounds import samples_needed, smallest_epsilon, upper_bound
from lookaway.core.cost import DecoderShape
from lookaway.core.errors import SettingsError
from lookaway.policies.attention_skip import AttentionSkip
from lookaway.policies.compose import chain
from lookaway.policies.fixed import ExitAt, KeepAll
from lookaway.policies.keep_schedule import KeepSchedule
from lookaway.policies.second_look import SecondLook
from lookaway.search.fit.candidates import FULL, Candidate
from lookaway.search.fit.certify import certify, coarse_ladder, ladder
from lookaway.search.fit.choices import Choice, choices, measured
from lookaway.search.fit.guarantee import Guarantee
from lookaway.search.fit.guarantee import samples_needed as samples_to_show
from lookaway.search.fit.options import FitOptions
from lookaway.search.fit.outcomes import Outcomes

LAYERS, VISUAL, TEXT = 10, 40, 10
SHAPE = DecoderShape(LAYERS, 8, 16, 2, 1, 4, 50)


def choice(name, rate, share, samples=160, draw=None):
    same = np.ones(samples, dtype=bool) if draw is None else draw.random(samples) >= rate
    return Choice(name, "reduction", same, np.full(samples, share), share, name)


def outcomes(need, sure, share, layer=2):
    """A reduction to `share` before `layer`: right where a sample needs no more than it."""
    visual = np.full((len(need), LAYERS), VISUAL)
    visual[:, layer:] = round(VISUAL * share)
    return Outcomes.of_layers(need <= share, sure, visual, np.full(len(need), TEXT))


def reductions(shares):
    return [
        Candidate(f"reduction/{share}", "reduction", KeepSchedule.from_steps({2: share}, LAYERS, ranking="uniform"))
        for share in shares
    ]


def test_bounds_are_the_binomial_tails_they_claim_to_be():
    assert upper_bound(0, 98, 0.05) > 0.03 >= upper_bound(0, 99, 0.05)
    assert samples_needed(0.03, 0.05) == 99
    assert samples_needed(0.03, 0.05, changed=1) == 157
    assert smallest_epsilon(99, 0.05) == pytest.approx(1 - 0.05 ** (1 / 99))


def test_the_order_goes_from_dear_and_safe_to_cheap_and_bold_and_ends_where_it_is_hopeless():
    found = [choice("a", 0, 0.9), choice("b", 0, 0.5), choice("c", 0, 0.49), choice("dear", 0, 0.95)]
    bad = choice("bad", 1, 0.2)
    bad.same[:] = False
    names = [rung.name for rung in ladder([*found, bad], Guarantee(0.03, 0.05))]
    # 'a' saves less than a step beside its neighbour, 'c' is the cheapest that lost nothing, 'bad' is hopeless
    assert names == ["dear", "b", "c"]


def test_of_policies_that_lost_nothing_those_that_fall_back_on_the_full_model_come_first():
    """A dear policy is not a safe one: what lost nothing on the search split may lose on the other samples."""
    safer = replace(choice("safer", 0, 0.7), then=FULL, threshold=0.99)
    safe = replace(choice("safe", 0, 0.75), then=FULL, threshold=0.8)
    names = [rung.name for rung in ladder([choice("exit", 0, 0.84), safe, safer], Guarantee(0.03, 0.05))]
    assert names == ["safer"]


def test_testing_stops_at_the_first_failure_and_takes_the_last_that_passed():
    order = [choice("a", 0, 0.9), choice("b", 0, 0.5), choice("c", 0, 0.3), choice("d", 0, 0.1)]
    order[2].same[:20] = False
    found = certify(order, lambda c: c, Guarantee(0.03, 0.05))
    assert found.passed.choice.name == "b"
    assert [tested.choice.name for tested in found.tested] == ["a", "b", "c"]
    order[0].same[:20] = False
    assert certify(order, lambda c: c, Guarantee(0.03, 0.05)).passed is None


def test_what_costs_no_less_than_the_full_model_on_these_samples_is_no_result():
    """On the search split all were cheaper; a second look may look again more often here."""
    order = [choice("a", 0, 0.95), choice("b", 0, 0.9), choice("c", 0, 0.8)]
    here = {"a": 0.97, "b": 1.01, "c": 1.0}
    found = certify(order, lambda c: replace(c, share=here[c.name]), Guarantee(0.03, 0.05))
    assert found.passed.choice.name == "a"
    assert [tested.choice.name for tested in found.tested] == ["a", "b", "c"]
    here["a"] = 1.0
    assert certify(order, lambda c: replace(c, share=here[c.name]), Guarantee(0.03, 0.05)).passed is None


def test_the_certificate_is_broken_at_most_delta_of_the_time_over_400_populations():
    draw, broken, epsilon = np.random.default_rng(0), 0, 0.05
    rule = Guarantee(epsilon, 0.1)
    for _ in range(400):
        rates = np.sort(draw.uniform(0, 0.15, 8))
        order = [choice(str(i), rates[i], 1 - i / 10) for i in range(8)]
        found = certify(order, lambda c, r=rates: choice(c.name, r[int(c.name)], c.share, draw=draw), rule)
        broken += found.passed is not None and rates[int(found.passed.choice.name)] > epsilon
    # 40 are allowed on average; three standard deviations above is 58
    assert broken <= 58


def second_look_population(draw, samples):
    """Samples that need a share of their visual tokens, and say so only roughly by their confidence."""
    need = draw.choice([0.05, 0.2, 0.5, 1.0], samples, p=[0.7, 0.18, 0.11, 0.01])
    sure = np.where(need <= 0.1, draw.beta(40, 1, samples), draw.beta(6, 2, samples))
    return need, sure


def test_certificates_of_searched_second_looks_hold_too():
    draw, epsilon, delta = np.random.default_rng(1), 0.05, 0.1
    options = FitOptions(epsilon=epsilon, delta=delta, rankings=("uniform",), shares=(0.1, 0.3, 0.6))
    rule = Guarantee(epsilon, delta)
    tried = [*reductions(options.shares), Candidate(FULL, "full model", KeepAll())]
    by_key = {c.key: c for c in tried}

    def look(samples):
        need, sure = second_look_population(draw, samples)
        full = outcomes(need * 0, sure, 1.0)
        return {c.key: outcomes(need, sure, s) for c, s in zip(tried, options.shares, strict=False)} | {
            FULL: full
        }, full

    kinds, broken, passed = [], 0, 0
    for _ in range(400):
        found, full = look(160)
        order = ladder(choices(tried, found, full, SHAPE, options), rule)
        new, new_full = look(160)
        result = certify(order, lambda c, n=new, f=new_full: measured(c, by_key, n, f, SHAPE, options), rule)
        if result.passed is not None:
            passed += 1
            kinds.append(result.passed.choice.method)
            many, many_full = look(20000)
            broken += (~measured(result.passed.choice, by_key, many, many_full, SHAPE, options).same).mean() > epsilon
    assert passed > 200
    assert "second-look" in kinds
    assert broken <= 58


def behind(found, gated, exit_layer=6):
    """The same reduction, then gates: rows of `gated` lose their visual tokens at a layer, and some of them
    their answer.

    Args:
        gated: rows that the gates let go -> whether the answer stays, bool [2, N].
    """
    leaves, stays = gated
    visual = found.visual.copy()
    visual[leaves, exit_layer:] = 0
    return replace(found, same=found.same & (stays | ~leaves), visual=visual)


def test_certificates_of_chains_hold_although_their_gates_have_seen_the_search_split():
    """Gates trained on the search split look flawless there: every answer that they let go stays. On other samples
    they err at a rate that differs between the draws. 400 draws; second looks may begin with such a chain."""
    draw, epsilon, delta = np.random.default_rng(2), 0.05, 0.1
    options = FitOptions(epsilon=epsilon, delta=delta, rankings=("uniform",), shares=(0.3, 0.6))
    rule, kinds, broken, refused = Guarantee(epsilon, delta), [], 0, 0
    tried = [*reductions(options.shares), Candidate(FULL, "full model", KeepAll())]
    chains = [Candidate(f"gates-behind/{c.key}", "gates-behind", chain(c.policy, ExitAt(6))) for c in tried[:-1]]
    options = replace(options, methods=(*options.methods, "gates-behind"))
    by_key = {c.key: c for c in [*tried, *chains]}

    def look(samples, errs):
        need, sure = second_look_population(draw, samples)
        full = outcomes(need * 0, sure, 1.0)
        found = {c.key: outcomes(need, sure, s) for c, s in zip(tried, options.shares, strict=False)} | {FULL: full}
        for part in tried[:-1]:
            gated = np.stack([draw.random(samples) < 0.8, draw.random(samples) >= errs])
            found[f"gates-behind/{part.key}"] = behind(found[part.key], gated)
        return found, full

    for _ in range(400):
        errs = draw.uniform(0, 0.1)
        found, full = look(160, 0.0)
        order = ladder(choices(list(by_key.values()), found, full, SHAPE, options), rule)
        new, new_full = look(160, errs)
        result = certify(order, lambda c, n=new, f=new_full: measured(c, by_key, n, f, SHAPE, options), rule)
        if result.passed is None:
            refused += 1
            continue
        kinds += [key.split("/")[0] for key in result.passed.choice.keys]
        many, many_full = look(20000, errs)
        broken += (~measured(result.passed.choice, by_key, many, many_full, SHAPE, options).same).mean() > epsilon
    assert refused < 200
    assert kinds.count("gates-behind") > 50
    assert broken <= 58  # 40 are allowed on average; three standard deviations above is 58


def test_safer_thresholds_before_a_level_cost_it_nothing_and_are_taken_where_it_fails():
    """100 draws: whatever the levels alone would certify is certified with their safer variants too, or cheaper."""
    draw, cheaper = np.random.default_rng(5), 0
    options = FitOptions(epsilon=0.05, delta=0.1, rankings=("uniform",), shares=(0.1, 0.3, 0.6))
    rule = Guarantee(0.05, 0.1)
    tried = [*reductions(options.shares), Candidate(FULL, "full model", KeepAll())]
    by_key = {c.key: c for c in tried}

    def look():
        need, sure = second_look_population(draw, 160)
        full = outcomes(need * 0, sure, 1.0)
        found = {c.key: outcomes(need, sure, s) for c, s in zip(tried, options.shares, strict=False)}
        return {**found, FULL: full}, full

    for _ in range(100):
        found, full = look()
        made = choices(tried, found, full, SHAPE, options)
        levels, order = coarse_ladder(made, rule), ladder(made, rule)
        assert [c.name for c in order if c in levels] == [c.name for c in levels]
        assert [c.share for c in order] == sorted((c.share for c in order), reverse=True)
        new, new_full = look()

        def there(one, n=new, f=new_full):
            return measured(one, by_key, n, f, SHAPE, options)

        for extra, after in pairwise(order):
            if extra not in levels:  # it loses no sample that the next one keeps
                assert not (~there(extra).same & there(after).same).any()
        alone, both = certify(levels, there, rule).passed, certify(order, there, rule).passed
        if alone is not None:
            assert both is not None
            names = [c.name for c in order]
            assert names.index(both.choice.name) >= names.index(alone.choice.name)
            cheaper += both.choice.share < alone.choice.share
    assert cheaper > 2


def test_the_known_best_policy_of_a_toy_space_is_found():
    draw = np.random.default_rng(2)
    need = draw.choice([0.05, 0.4], 300, p=[0.8, 0.2])
    sure = np.where(need < 0.1, 0.99, 0.6)  # the confidence tells exactly who needs more
    options = FitOptions(rankings=("uniform",), shares=(0.05, 0.2, 0.4))
    tried = reductions(options.shares)
    found = {c.key: outcomes(need, sure, s) for c, s in zip(tried, options.shares, strict=True)}
    made = choices(tried, found, outcomes(need * 0, sure, 1.0), SHAPE, options)
    kept = [c for c in made if c.changed == 0]
    best = min(kept, key=lambda c: c.share)
    assert (best.first, best.then) == ("reduction/0.05", "reduction/0.4")
    assert best.threshold <= 0.95
    assert ladder(made, Guarantee(0.03, 0.05))[-1].share == best.share


def test_a_second_look_costs_its_first_pass_and_the_layers_behind_the_kept_states():
    need, sure = np.array([0.05, 0.4]), np.array([0.99, 0.3])
    cheap, dear = outcomes(need, sure, 0.1), outcomes(need, sure, 0.5)
    full = outcomes(need * 0, sure, 1.0)
    options = FitOptions(rankings=("uniform",), shares=(0.1, 0.5))
    tried = reductions(options.shares)
    made = choices(tried, {tried[0].key: cheap, tried[1].key: dear}, full, SHAPE, options)
    pair = next(c for c in made if c.method == "second-look" and c.threshold == 0.9)
    whole, small, large = (SHAPE.layer_flops(TEXT + v) for v in (VISUAL, 4, 20))
    first_pass = 2 * whole + 8 * small
    assert pair.cost.tolist() == [first_pass, first_pass + 8 * large]
    assert pair.again == 0.5


def test_skipped_attention_is_in_no_second_look():
    with pytest.raises(SettingsError, match="cannot skip attention"):
        SecondLook(AttentionSkip((1,)), ExitAt(4)).layers(LAYERS, 1)
    skipping = Candidate("own/skip", "own", AttentionSkip((1,)))
    need = np.array([0.05, 0.4])
    tried = [*reductions((0.5,)), skipping]
    found = {tried[0].key: outcomes(need, need, 0.5), skipping.key: outcomes(need, need, 0.1)}
    made = choices(tried, found, outcomes(need * 0, need, 1.0), SHAPE, FitOptions())
    assert [c.name for c in made] == [tried[0].key, skipping.key]


def test_second_looks_that_could_not_be_attached_are_left_out():
    need, sure = np.array([0.05, 0.4]), np.array([0.99, 0.3])
    options = FitOptions(rankings=("uniform",), shares=(0.1, 0.5))
    tried = reductions(options.shares)
    found = {c.key: outcomes(need, sure, s) for c, s in zip(tried, options.shares, strict=True)}
    full = outcomes(need * 0, sure, 1.0)

    def pairs(first):
        return [c for c in choices(tried, found, full, SHAPE, options, first) if c.method == "second-look"]

    assert pairs(2)
    assert not pairs(3)


def test_certificates_of_a_graded_score_hold_for_searched_second_looks():
    """400 draws; a sample's score falls by a part of it where the answer changes."""
    draw, epsilon, delta = np.random.default_rng(4), 0.05, 0.1
    options = FitOptions(epsilon=epsilon, delta=delta, rankings=("uniform",), shares=(0.1, 0.3, 0.6), metric="score")
    rule = Guarantee(epsilon, delta, "score", binary=False)
    assert "Hoeffding-Bentkus" in rule.method
    tried = reductions(options.shares)
    by_key = {c.key: c for c in tried}

    def look(samples):
        need, sure = second_look_population(draw, samples)
        falls = draw.choice([0.3, 0.6, 1.0], samples)
        full = outcomes(need * 0, sure, 1.0)
        found = {c.key: outcomes(need, sure, s) for c, s in zip(tried, options.shares, strict=True)}
        return {key: replace(one, loss=np.where(one.same, 0.0, falls)) for key, one in found.items()}, full

    kinds, broken = [], 0
    for _ in range(400):
        found, full = look(240)
        order = ladder(choices(tried, found, full, SHAPE, options), rule)
        new, new_full = look(240)
        result = certify(order, lambda c, n=new, f=new_full: measured(c, by_key, n, f, SHAPE, options), rule)
        if result.passed is not None:
            kinds.append(result.passed.choice.method)
            many, many_full = look(20000)
            broken += measured(result.passed.choice, by_key, many, many_full, SHAPE, options).loss.mean() > epsilon
    assert len(kinds) > 200
    assert "second-look" in kinds
    assert broken <= 58


def test_a_score_of_0_and_1_is_certified_by_the_exact_bound():
    exact, graded = Guarantee(0.03, 0.05, "score", binary=True), Guarantee(0.03, 0.05, "score", binary=False)
    assert "exact binomial" in exact.method
    one = replace(choice("a", 0, 0.5), loss=np.array([1.0] + [0.0] * 159), same=np.array([False] * 30 + [True] * 130))
    assert exact.bound(one) == upper_bound(1, 160, 0.05)  # what counts is the score, not the 30 changed answers
    assert exact.bound(one) < graded.bound(one)
    assert exact.total(one) == graded.total(one) == 1
    assert samples_to_show(exact, 1) == samples_needed(0.03, 0.05, changed=1)


def test_a_test_that_has_shown_enough_is_the_last():
    order = [choice("a", 0, 0.9), choice("b", 0, 0.5), choice("c", 0, 0.3)]
    found = certify(order, lambda c: c, Guarantee(0.03, 0.05), enough=lambda c: c.share <= 0.5)
    assert found.passed.choice.name == "b"
    assert [tested.choice.name for tested in found.tested] == ["a", "b"]
