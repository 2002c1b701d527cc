"""Official scores in a paired evaluation: a score a question, tables, and summaries that use them."""

from __future__ import annotations

import pytest

from lookaway.core.errors import DataError
from lookaway.core.record import Sample
from lookaway.evaluation.runner import PairedResult, results_from_records
from lookaway.evaluation.scorers import SCORERS
from lookaway.evaluation.scores import score_pairs
from lookaway.evaluation.summary import summarise

COST = dict.fromkeys(("flops", "full_flops", "fastv_flops", "full_fastv_flops", "kv_bytes", "full_kv_bytes"), 10)


def result(number, without, answer, family="f", image=None):
    return PairedResult(
        variant="p", id=str(number), family=family, question="?", truth="yes", answer_without=without,
        answer_with=answer, right_without=without == "yes", right_with=answer == "yes", agree=without == answer,
        exit_layer=1, num_layers=2, visual_tokens=[4, 0], image=image, **COST,
    )  # fmt: skip


def sample(number, answers):
    return Sample(str(number), [{"role": "user", "content": "?"}], (), answers[0], "f", {"answers": answers})


def test_soft_scores_make_accuracy_retention_and_p_value():
    people = ["yes"] * 2 + ["yeah"] * 8
    samples = [sample(i, people) for i in (2, 1, 0)]
    results = [result(0, "yeah", "yes"), result(1, "yeah", "yeah"), result(2, "yes", "no")]
    scores = score_pairs(SCORERS["vqa"], samples, results)
    assert scores.without == pytest.approx([1.0, 1.0, 0.6])
    assert scores.with_policy == pytest.approx([0.6, 1.0, 0.0])
    row = summarise(results, scores)[0]
    assert row.accuracy_with == pytest.approx(1.6 / 3) == scores.totals["accuracy"]
    assert row.accuracy_without == pytest.approx(2.6 / 3) == scores.totals_without["accuracy"]
    assert row.retention.value == pytest.approx(1.6 / 2.6)
    assert row.p_value == pytest.approx(0.5)  # two images differ, both worse: 2 of 4 swaps are as extreme
    assert summarise(results)[0].accuracy_with == pytest.approx(1 / 3)  # without a scorer: right or wrong


def test_families_get_their_own_scores():
    samples = [sample(i, ["yes"] * 10) for i in range(4)]
    results = [result(i, "yes", ("yes", "no")[i % 2], ("even", "odd")[i % 2]) for i in range(4)]
    rows = {row.family: row for row in summarise(results, score_pairs(SCORERS["vqa"], samples, results))}
    assert (rows["even"].accuracy_with, rows["odd"].accuracy_with, rows["all"].accuracy_with) == (1.0, 0.0, 0.5)


def test_questions_of_one_image_count_once():
    same = [result(i, "yes", ("yes", "no")[i < 8], image=f"{i // 8}.png") for i in range(16)]
    apart = [result(i, "yes", ("yes", "no")[i < 8], image=f"{i}.png") for i in range(16)]
    together, single = summarise(same)[0], summarise(apart)[0]
    assert (together.images, single.images, together.samples) == (2, 16, 16)
    assert single.p_value < 0.01
    assert together.p_value == 1.0
    assert together.agreement.high - together.agreement.low > single.agreement.high - single.agreement.low
    assert single.needed_for_one_percent > 10_000


def test_records_of_the_last_version_still_load():
    old = {name: getattr(result(0, "yes", "no"), name) for name in PairedResult.__dataclass_fields__ if name != "image"}
    (found,) = results_from_records([{"kind": "sample", **old}])
    assert found.image is None
    assert summarise([found])[0].images == 1


def test_a_table_that_cannot_be_made_is_refused():
    results = [result(0, "yes", "no", "count")]
    with pytest.raises(DataError, match="MME scores two questions an image"):
        score_pairs(SCORERS["mme"], [Sample("0", [], (), "yes", "count", {"pair": "1.png"})], results)
