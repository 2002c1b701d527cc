"""A whole fit on a made-up model: the known best policy is found, halving spends less, a kill changes nothing."""

import multiprocessing

import numpy as np
import pytest
from made_up_space import Anatomy, Runs, population

import lookaway as la
from lookaway.core.errors import SettingsError, UnsupportedModel
from lookaway.search.fit.candidates import FULL, candidates
from lookaway.search.fit.guarantee import Guarantee
from lookaway.search.fit.halving import parts_of, survivors
from lookaway.search.fit.options import FitOptions
from lookaway.search.fit.seconds import Seconds
from lookaway.search.fit.session import FitEvents, fit
from lookaway.search.trials.queue import TrialQueue

SPACE = {
    "methods": ("reduction", "two-reductions", "exit", "second-look"),
    "rankings": ("uniform",),
    "shares": (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8),
}


def run(options=None, storage="memory", log=None, events=None, own=None, runs=Runs, **more):
    need, sure = population(np.random.default_rng(2), 160)
    other = population(np.random.default_rng(3), 160)
    return fit(
        Anatomy, lambda part, kept: runs(need[part.start : part.stop], sure[part.start : part.stop], log), 160,
        lambda kept: runs(*other, log), options or FitOptions(**SPACE), TrialQueue(storage, "fit", 0, {"of": "toy"}),
        own, events=events, **more,
    )  # fmt: skip


@pytest.mark.parametrize("halvings", [0, 1, 2, 3])
def test_the_known_best_policy_is_found_and_certified(halvings):
    """5 % for those who are sure, 40 % for the others: nothing in the space is cheaper and keeps all answers."""
    found = run(FitOptions(**SPACE, halvings=halvings))
    assert (found.chosen.first, found.chosen.then) == ("reduction/uniform-2-0.05", "reduction/uniform-2-0.4")
    assert found.chosen.threshold <= 0.95
    assert found.certificate.passed.bound <= 0.03
    assert found.policy.first.entries(10)[2] == 0.05
    everything = run(FitOptions(**SPACE, halvings=0)).found
    kept = [choice for choice in everything if choice.changed == 0]
    assert found.chosen.share == min(choice.share for choice in kept)


def test_halving_runs_fewer_samples_and_says_who_was_dropped():
    spent = {}
    for halvings in (0, 3):
        log = []
        found = run(FitOptions(**SPACE, halvings=halvings), log=log)
        spent[halvings] = sum(samples for _, samples in log)
    assert spent[3] < 0.6 * spent[0]
    assert {len(choice.same) for choice in found.dropped} == {20, 40, 80}
    assert {len(choice.same) for choice in found.found} == {160}


def test_every_candidate_is_allowed_on_a_decoder_whose_first_layers_keep_everything():
    for depth, first in ((4, 1), (8, 3), (12, 4), (30, 1)):
        options = FitOptions(reduce_before=(first,))
        for candidate in candidates(depth, first, options):
            layers = candidate.policy.layers(depth, first)
            assert all(layer == 0 or first <= layer < depth for layer in layers), candidate.key
        kinds = {candidate.method for candidate in candidates(depth, first, options)}
        assert {"before-decoder", "reduction", "exit"} <= kinds


def test_parts_are_whole_and_not_too_small():
    assert parts_of(160, 2) == [range(40), range(40, 80), range(80, 160)]
    assert parts_of(160, 0) == [range(160)]
    assert parts_of(160, 3) == [range(20), range(20, 40), range(40, 80), range(80, 160)]
    assert parts_of(60, 2) == [range(30), range(30, 60)]
    assert parts_of(12, 5) == [range(12)]


def test_the_better_half_and_the_safest_go_on():
    found = run(FitOptions(**SPACE, halvings=0)).found
    keys = sorted({choice.first for choice in found if choice.then is None})
    stay = survivors(found, keys, Guarantee(0.03, 0.05))
    assert FULL in survivors(found, [*keys, FULL], Guarantee(0.03, 0.05))
    assert len(stay) == (len(keys) + 1) // 2
    assert {"reduction/uniform-2-0.05", "reduction/uniform-2-0.4"} <= set(stay)  # what the best choice is made of
    singles = [choice for choice in found if choice.then is None]
    least = min(choice.changed for choice in singles)
    safest = max((c for c in singles if c.changed == least), key=lambda c: c.share)
    assert safest.first in stay


def test_where_no_policy_of_one_pass_can_be_trusted_unsure_rows_fall_back_on_the_full_model():
    """Each reduction changes some answers; the confidence tells which. Only the full model mends them all."""
    need = np.where(np.arange(160) % 16 == 0, 0.99, 0.05)
    sure = np.where(need < 0.1, 0.999, 0.6)
    result = fit(
        Anatomy, lambda part, kept: Runs(need[part.start : part.stop], sure[part.start : part.stop]), 160,
        lambda kept: Runs(need, sure), FitOptions(methods=("second-look",), rankings=("uniform",)),
        TrialQueue("memory", "fit", 0, {"of": "toy"}),
    )  # fmt: skip
    assert isinstance(result.policy, la.SecondLook)
    assert isinstance(result.policy.then, la.KeepAll)
    assert result.certificate.passed.choice.changed == 0
    assert FULL not in {choice.first for choice in result.found}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 7, 25, 33])
def test_a_fit_that_was_killed_comes_to_the_same_result(tmp_path, after):
    whole, count = run(), [0]

    class Dying(Runs):
        def outcomes(self, policy):
            count[0] += 1
            if count[0] == after:
                raise Killed
            return super().outcomes(policy)

    log, storage = [], tmp_path / "trials.journal"
    with pytest.raises(Killed):
        run(storage=storage, runs=Dying)
    found = run(storage=storage, log=log)
    assert found.chosen.name == whole.chosen.name
    assert [t.choice.name for t in found.certificate.tested] == [t.choice.name for t in whole.certificate.tested]
    again = []
    assert run(storage=storage, log=again).chosen.name == whole.chosen.name
    assert again == []  # nothing ran twice
    assert len(log) > 0


def _work(storage):
    run(storage=storage)


def test_two_workers_share_the_trials_and_come_to_the_same_result(tmp_path):
    storage, alone = tmp_path / "trials.journal", run()
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(storage,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0]
    log = []
    found = run(storage=storage, log=log)
    assert log == []
    assert found.chosen.name == alone.chosen.name
    assert [t.bound for t in found.certificate.tested] == [t.bound for t in alone.certificate.tested]


def test_the_best_so_far_gets_cheaper_and_looks_kept():
    shown = []
    options = FitOptions(**{**SPACE, "shares": SPACE["shares"][::-1]}, halvings=0)
    run(options, events=FitEvents(on_best=lambda choice, policy: shown.append((choice, policy))))
    shares = [choice.share for choice, _ in shown]
    assert len(shares) > 1
    assert shares == sorted(shares, reverse=True)
    assert all(choice.changed / len(choice.same) <= 0.03 for choice, _ in shown)
    assert shown[-1][1].name == "second-look"


def test_what_is_dearer_than_the_full_model_is_never_the_best_and_counts_are_of_all_samples():
    """Nothing keeps the answers but to look again with the full model, which costs more than not to look twice."""
    need, sure = np.full(160, 0.99), np.full(160, 0.5)
    shown, nothing, counts, parts = [], [], [], []
    options = FitOptions(**{**SPACE, "methods": ("reduction", "second-look")}, halvings=2)
    fit(
        Anatomy, lambda part, kept: Runs(need[part.start : part.stop], sure[part.start : part.stop]), 160,
        lambda kept: Runs(need, sure), options, TrialQueue("memory", "fit", 0, {"of": "toy"}),
        events=FitEvents(
            on_best=lambda choice, policy: shown.append(choice),
            on_none=nothing.append,
            on_part=lambda number, kept, part: parts.append(part.stop),
            on_tried=lambda key, found: counts.append((parts[-1], key, len(found))),
        ),
    )  # fmt: skip
    assert shown == []
    assert nothing == parts == [40, 80, 160]
    assert all(samples == seen for samples, _, seen in counts)
    assert {samples for samples, _, _ in counts} == {40, 80, 160}
    assert FULL not in {key for _, key, _ in counts}


def seconds_of(policies, floor=0.5):
    """As if half of the time did not depend on the tokens."""
    found = {}
    for name, (policy, again) in policies.items():
        first = getattr(policy, "first", policy)
        work = sum(first.entries(10)) / 10 if hasattr(first, "entries") else first.layer / 10
        spent = floor + (1 - floor) * work + (0.45 if again else 0)
        found[name] = Seconds(spent, 1.0, 1 / spent, (1 / spent, 1 / spent), 8, 1, 8)
    return found


def test_where_seconds_count_the_fastest_wins_and_not_the_one_of_fewest_flops():
    options = FitOptions(**SPACE, cost="seconds")
    found = run(options, time_search=seconds_of, time_certification=seconds_of)
    assert found.chosen.then is None  # looking again costs more seconds here than it saves
    assert found.chosen.share == found.chosen.seconds.share
    assert found.chosen.seconds.speedup > 1
    assert found.confirmed.speedup == found.chosen.seconds.speedup
    assert all(choice.seconds is not None for choice in found.order)


def test_a_speed_up_stops_at_the_safest_policy_that_reaches_it():
    fastest = run(FitOptions(**SPACE, cost="seconds"), time_search=seconds_of, time_certification=seconds_of)
    wanted = 1.05
    assert fastest.chosen.seconds.speedup > wanted
    found = run(FitOptions(**SPACE, speedup=wanted), time_search=seconds_of, time_certification=seconds_of)
    assert wanted <= found.chosen.seconds.speedup < fastest.chosen.seconds.speedup
    slower = [choice for choice in found.order if choice.seconds.speedup < wanted]
    assert [t.choice.name for t in found.certificate.tested] == [*(c.name for c in slower), found.chosen.name]


def test_seconds_are_measured_once_also_where_a_fit_goes_on(tmp_path):
    options, calls = FitOptions(**SPACE, cost="seconds"), []

    def timed(policies):
        calls.append(sorted(policies))
        return seconds_of(policies)

    first = run(options, tmp_path / "t.journal", time_search=timed, time_certification=timed)
    assert len(calls) == 2
    again = run(options, tmp_path / "t.journal", time_search=timed, time_certification=timed)
    assert len(calls) == 2
    assert again.chosen.name == first.chosen.name
    assert again.chosen.seconds == first.chosen.seconds


def test_other_seconds_are_measured_anew_and_no_other_trial_is_made_again(tmp_path):
    options, calls, ran = FitOptions(**SPACE, cost="seconds"), [], []

    class Counted(Runs):
        def outcomes(self, policy):
            ran.append(policy.name)
            return super().outcomes(policy)

    def timed(policies):
        calls.append(sorted(policies))
        return seconds_of(policies)

    where = {"storage": tmp_path / "t.journal", "runs": Counted, "time_search": timed, "time_certification": timed}
    first = run(options, timing={"batch_size": 8}, **where)
    assert ran
    assert len(calls) == 2
    ran.clear()
    again = run(options, timing={"batch_size": 16}, **where)
    assert len(calls) == 4
    assert again.chosen.name == first.chosen.name
    run(options, timing={"batch_size": 8}, **where)
    assert len(calls) == 4
    assert ran == []


def test_what_the_model_refuses_is_left_out_and_named_but_for_candidates_of_ones_own():
    class Picky(Runs):
        def outcomes(self, policy):
            if policy.name == la.ExitAt.name:
                raise UnsupportedModel("no exits here")
            return super().outcomes(policy)

    found = run(runs=Picky)
    assert found.refused
    assert set(found.refused.values()) == {"no exits here"}
    assert all(choice.method != "exit" for choice in found.found)

    with pytest.raises(UnsupportedModel, match="no exits here"):
        run(runs=Picky, own={"mine": la.ExitAt(3)})
    with pytest.raises(SettingsError, match="can run no policy"):
        run(FitOptions(methods=("exit",)), runs=Picky)


def test_what_cannot_run_on_the_certification_samples_ends_the_test_and_what_passed_before_it_stands():
    whole, calls = run(), []

    class Picky(Runs):
        """The second policy that certification runs for the first time is refused there, as by a picture's size."""

        def outcomes(self, policy):
            if self.certifies:
                calls.append(policy)
                if len(calls) == self.refuses:
                    raise UnsupportedModel("not with this picture")
            return super().outcomes(policy)

    def certifying(refuses):
        calls.clear()
        need, sure = population(np.random.default_rng(2), 160)
        other, parts = population(np.random.default_rng(3), 160), []

        def made(*given, certifies):
            parts.append(Picky(*given))
            parts[-1].certifies, parts[-1].refuses = certifies, refuses
            return parts[-1]

        def searched(part, kept):
            return made(need[part.start : part.stop], sure[part.start : part.stop], certifies=False)

        queue = TrialQueue("memory", "fit", 0, {"of": "toy"})
        return fit(Anatomy, searched, 160, lambda kept: made(*other, certifies=True), FitOptions(**SPACE), queue)

    names = [t.choice.name for t in whole.certificate.tested]
    assert len(names) > 1
    found = certifying(1)  # the very first
    assert found.certificate.tested == ()
    assert found.policy is None
    assert set(found.order[0].keys) & set(found.refused)
    last = 0
    while True:  # whichever is refused, what passed before it is the result
        found = certifying(last + 1)
        tested = [t.choice.name for t in found.certificate.tested]
        assert tested == names[: len(tested)]
        if tested == names:
            break
        last += 1
        assert (found.certificate.passed is None) == (not tested)
        if tested:
            assert found.certificate.passed.choice.name == tested[-1]
    assert last > 1
