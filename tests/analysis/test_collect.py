"""One study on a tiny model: records agree with dense maps, live generation and masks by hand; a killed run goes on."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import lookaway as la
from lookaway.analysis.collect import StudyOptions, exit_outcomes, plain, study, study_sample
from lookaway.analysis.findings import TABLES, write_findings
from lookaway.analysis.pictures import choose, write_looks
from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import tiny
from lookaway.core.errors import DataError, UnsupportedModel
from lookaway.core.record import RecordWriter, Sample, read_records
from lookaway.engine.observe.knockout import blocked
from lookaway.models.encoding import encode
from lookaway.models.seen_picture import seen_picture

DEPTH = 6


def dense_maps(studied, number):
    """The prompt's full maps [L][heads, S, S] and its layout, by eager attention."""
    _, processor, samples, _ = studied
    inputs = encode(processor, [samples[number]]).inputs
    eager = tiny("llava", DEPTH, attn_implementation="eager").model
    with torch.no_grad():
        maps = eager(**inputs, output_attentions=True).attentions
    return [one[0] for one in maps], anatomy_of(eager).layout(inputs["input_ids"], inputs["attention_mask"])


def test_flow_scores_and_medians_are_those_of_the_dense_maps(studied):
    record = studied[3][2]
    maps, layout = dense_maps(studied, 2)
    visual, text = layout.visual[0], layout.question_mask()[0]
    assert (record["visual_tokens"], record["question_tokens"]) == (int(visual.sum()), int(text.sum()))
    for layer, weights in enumerate(maps):
        merged = weights.amax(0)[text][:, visual].sum() / text.sum()
        assert record["flow"]["max"]["cross"][layer] == pytest.approx(float(merged), rel=1e-4)
        scores = weights.mean(0)[text][:, visual].mean(0)
        assert record["ranks"]["text"]["median"][layer] == pytest.approx(float(np.median(scores)), rel=1e-4)
        values = np.frombuffer(base64.b64decode(record["looks"]["bytes"]), np.uint8).reshape(DEPTH, -1)[layer]
        assert np.abs(values / 255 - (scores / scores.max()).numpy()).max() < 0.003
    assert list(record["looks"]["grid"]) == [4, 4]


def test_exits_and_knockouts_are_what_live_generation_does(studied):
    model, processor, samples, records = studied
    for sample, record in zip(samples[:3], records[:3], strict=True):
        inputs = encode(processor, [sample]).inputs

        def answer(inputs=inputs):
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=32)[0, inputs["input_ids"].shape[1] :]
            return processor.tokenizer.decode(ids, skip_special_tokens=True).strip()

        assert record["answer"] == answer()
        for layer, same in zip(record["exits"]["layers"], record["exits"]["same"], strict=True):
            with la.attach(model, la.ExitAt(layer)):
                assert (answer() == record["answer"]) == same
        first, stop = record["knockout"]["windows"][1]
        with blocked(model, range(first, stop)):
            # later tokens are decoded without the mask, so only the first is judged here
            logits = model(**inputs).logits[0, -1]
        target = encode(processor, [sample], answers=[record["answer"]])
        assert bool(record["knockout"]["same"][1]) <= bool(
            logits.argmax() == target.inputs["input_ids"][target.answer_mask][0]
        )


def test_what_is_right_says_the_judge_where_the_answer_is_known(studied):
    """The truth in the other case: a study called every exit wrong, beside a table that called the answers right."""
    model, processor, samples, records = studied
    sample = replace(samples[0], answer=records[0]["answer"].swapcase())
    assert sample.answer != records[0]["answer"]

    def right(sample, answer):
        return answer.lower() == sample.answer.lower()

    judged = study_sample(model, processor, sample, StudyOptions(window=2), right)
    assert judged["exits"]["full_right"] is judged["knockout"]["full_right"] is True
    for part in (judged["exits"], judged["knockout"]):
        assert part["right"] == part["same"]
    letters = study_sample(model, processor, sample, StudyOptions(window=2))
    assert letters["exits"]["full_right"] is False
    assert letters["exits"]["same"] == judged["exits"]["same"]


def test_exits_a_few_at_a_time_are_the_same(studied):
    model, processor, samples, _ = studied
    batch = encode(processor, [samples[0]], answers=["some words"])
    whole, few = (exit_outcomes(model, batch, "answer", rows=rows) for rows in (10**6, 1))
    assert whole.layers == few.layers == list(range(1, DEPTH))
    torch.testing.assert_close(few.loss, whole.loss, atol=1e-6, rtol=1e-6)
    assert torch.equal(few.match, whole.match)
    assert torch.equal(few.agree, whole.agree)
    assert (few.full_loss, few.full_match) == (pytest.approx(whole.full_loss), whole.full_match)


def test_windows_and_exits_follow_the_options(studied):
    model, processor, samples, records = studied
    assert records[0]["knockout"]["windows"] == [[k, k + 1] for k in range(DEPTH)]
    assert list(records[0]["entropy_after_exit"]) == ["1", "3", "4"]
    found = study(model, processor, samples[:1], StudyOptions(window=4, entropy_exits=(2,), max_new_tokens=3))[0]
    assert found["knockout"]["windows"] == [[0, 4], [1, 5], [2, 6]]
    after = found["entropy_after_exit"]["2"]
    assert [value is None for value in after["cross"]] == [False, False, True, True, True, True]
    assert after["text_self"][:2] == found["entropy"]["text_self"][:2]
    assert after["text_self"][3] != found["entropy"]["text_self"][3]


def test_a_sample_without_an_answer_is_studied_by_the_models_own(studied):
    record = studied[3][5]
    assert (record["truth"], record["exits"]["right"], record["knockout"]["full_right"]) == (None, None, None)
    assert len(record["exits"]["same"]) == DEPTH - 1
    assert studied[3][0]["exits"]["right"] is not None


def test_an_interrupted_study_goes_on_where_it_was(studied, tmp_path):
    model, processor, samples, records = studied
    path = tmp_path / "records.jsonl"
    ticks = []

    def stop(count):
        ticks.append(count)
        if len(ticks) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), RecordWriter(path) as writer:
        study(model, processor, samples, writer=writer, progress=stop)
    with path.open("a") as file:
        file.write('{"kind": "study", "id": "torn')
    RecordWriter(path).close()
    done = list(read_records(path))
    assert [record["id"] for record in done] == ["0", "1"]
    with RecordWriter(path) as writer:
        found = study(model, processor, samples, writer=writer, done=done)
    assert [record["id"] for record in read_records(path)] == ["0", "1", "2", "3", "4", "5"]
    assert json.loads(json.dumps(found[2:])) == json.loads(json.dumps(records[2:]))


def test_findings_hold_every_table_and_nan_never_reaches_the_file(studied, tmp_path):
    with RecordWriter(tmp_path / "r.jsonl") as writer:
        for record in studied[3]:
            writer.write("study", **record)
        write_findings(writer, studied[3])
    found = [record for record in read_records(tmp_path / "r.jsonl") if record["kind"] == "finding"]
    assert [record["name"] for record in found] == list(TABLES)
    assert "NaN" not in (tmp_path / "r.jsonl").read_text()


def test_what_cannot_be_studied_is_named(studied):
    model, processor, samples, _ = studied
    with pytest.raises(DataError, match="no sample with"):
        study(model, processor, [])
    blind = Sample("x", [{"role": "user", "content": "what?"}])
    with pytest.raises(DataError, match="'x' has none"):
        study(model, processor, [samples[0], blind])
    with pytest.raises(DataError, match="--top-share"):
        StudyOptions(top_share=1.5)
    other = tiny("llava", 2).model
    other.model.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModel, match="attn_implementation='sdpa'"):
        study(other, processor, samples)


def chosen_of(records, **kwargs):
    return {name: reasons[0] for name, reasons in choose(records, **kwargs).items()}


def made(number, same, right, full_right, depth=4):
    return {"id": number, "num_layers": depth, "exits": {"layers": [1, 2, 3], "same": same, "right": right,
                                                         "full_right": full_right}}  # fmt: skip


def test_chosen_samples_show_both_ends_and_both_kinds_of_change():
    yes, no = [True] * 3, [False] * 3
    records = [
        made("early", yes, yes, True), made("late", no, no, False), made("harmed", [False, False, True], no, True),
        made("helped", [False, True, True], [False, False, True], False), made("plain", [False, True, True], yes, True),
    ]  # fmt: skip
    found = choose(records, count=8)
    assert found["early"][0] == "earliest"
    assert found["late"][0] == "latest"
    assert chosen_of(records, count=4) | {"early": "earliest"} == chosen_of(records, count=4)
    assert "wrong_after" in found["harmed"]
    assert "right_only_after" in found["helped"]
    by_policy = choose(records, exits={"early": None, "late": 1, "harmed": 1, "helped": 3}, count=8)
    assert "plain" not in by_policy
    assert "wrong_after" in by_policy["harmed"]
    assert "right_only_after" in by_policy["helped"]
    unknown = [made("a", no, None, None), made("b", yes, None, None)]
    assert "changed_after" in choose(unknown, count=8)["a"]
    assert choose([]) == {}


def test_the_picture_is_what_the_model_saw(studied, tmp_path):
    _, processor, samples, records = studied
    png, aligned = seen_picture(processor, samples[0])
    assert aligned
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))), dtype=int)
    assert np.abs(picture - np.asarray(samples[0].images[0], dtype=int)).max() <= 1  # 16 x 16 is the model's own size
    with RecordWriter(tmp_path / "r.jsonl") as writer:
        write_looks(writer, processor, samples, records, count=4)
    looks = list(read_records(tmp_path / "r.jsonl"))
    assert 0 < len(looks) <= 4
    assert all(look["aligned"] and look["reasons"] and not look["by_policy"] for look in looks)


def test_plain_numbers():
    assert plain(torch.tensor([1.23456789, float("nan")])) == [1.23457, None]
    assert plain(np.float64(2.0)) == 2.0
    assert plain([[torch.tensor(0.5)]]) == [[0.5]]
