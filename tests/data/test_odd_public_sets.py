"""Damaged public sets: each oddity is refused with its place, where it once was a wrong sample or a traceback."""

from __future__ import annotations

import json

import pytest

from lookaway.core.errors import DataError
from lookaway.core.record import Sample
from lookaway.data import load_samples
from lookaway.data.fields import scalar
from lookaway.evaluation.scorers import scorer_for

GQA = {"imageId": "n1", "question": "Is it?", "answer": "yes", "types": {"structural": "verify"}}
TEXTVQA = {"question": "what?", "image_id": "a", "question_id": 1, "answers": ["x"] * 10}
POPE = {"question_id": 1, "image": "a.jpg", "text": "Is there?", "label": "yes"}
SQA = {"question": "q?", "choices": ["a", "b"], "answer": 1, "image": "image.png", "subject": "natural science",
       "grade": "grade3", "hint": ""}  # fmt: skip
ASKED = {"image_id": 1, "question": "q?", "question_id": 1}
ANNOTATED = {"question_id": 1, "multiple_choice_answer": "x", "answer_type": "other", "answers": [{"answer": "x"}] * 10}
NLVR2 = {"identifier": "test1-0-0-0", "sentence": "s.", "label": "True"}


def gqa(**change):
    return "gqa", "test", {"testdev_balanced_questions.json": {"1": GQA | change}}


def textvqa(*changes):
    return "textvqa", "val", {"TextVQA_0.5.1_val.json": {"data": [TEXTVQA | change for change in changes]}}


def pope(*changes):
    return "pope", "random", {"coco_pope_random.json": "\n".join(json.dumps(POPE | change) for change in changes)}


def mme(text, place="count"):
    return "mme", "test", {f"{place}/1.jpg": "", f"{place}/1.txt": text}


def scienceqa(change, numbers=("1",)):
    return "scienceqa", "test", {"problems.json": {"1": SQA | change}, "pid_splits.json": {"test": numbers}}


def vqav2(asked=(ASKED,), annotated=(ANNOTATED,), key="questions"):
    return "vqav2", "val2014", {
        "v2_OpenEnded_mscoco_val2014_questions.json": {key: asked},
        "v2_mscoco_val2014_annotations.json": {"annotations": annotated},
    }  # fmt: skip


def nlvr2(*changes):
    return "nlvr2", "test", {"test1.json": "\n".join(json.dumps(NLVR2 | change) for change in changes)}


def written(folder, kind, split, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return load_samples(f"{kind}:{folder}", split)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (gqa(question=None), r"testdev_balanced_questions.json, question '1': 'question' must be text .*, not null"),
        (gqa(answer=None), "question '1': 'answer' must be text or a number, not null"),
        (gqa(answer=True), "not true or false. Write 'yes' or 'no'"),
        (gqa(question=["a"]), "'question' must be text or a number, not list"),
        (gqa(imageId=None), "'imageId' must be text"),
        (gqa(types={"structural": ["a"]}), "'structural' must be text"),
        (("gqa", "test", {"testdev_balanced_questions.json": {"1": "x"}}), "question '1' is no JSON object: 'x'"),
        (("gqa", "test", {"testdev_balanced_questions.json": {}}), "The split 'test' of gqa:.* holds no questions"),
        (textvqa({"question": None}), r"TextVQA_0.5.1_val.json, question 1: 'question' must be text"),
        (textvqa({"answers": None}), "'answers' must be a list, not NoneType"),
        (textvqa({"answers": "nokia"}), "'answers' must be a list, not str"),
        (textvqa({"answers": 5}), "'answers' must be a list, not int"),
        (textvqa({"answers": [None] * 10}), "'answers' must be text or a number, not null"),
        (textvqa({}, {"answers": ["y"] * 10}), "two questions with the id '1'"),
        (textvqa(), "holds no questions"),
        (pope({"text": None}), "coco_pope_random.json, line 1: 'text' must be text"),
        (pope({}, {"label": "maybe"}), "line 2: 'label' must be yes or no, not 'maybe'"),
        (pope({"label": True}), "'label' must be text or a number, not true or false"),
        (pope({}, {"label": "no"}), "two questions with the id 'random-1'"),
        (pope(), "holds no questions"),
        (mme("a?\tYes\nb?\tMaybe"), r"1.txt must hold two lines"),
        (mme("a?\tYes\nb?\tNo", "release/count"), "in no place of MME's task 'release'.*give that: mme:"),
        (scienceqa({"answer": "1"}), "problems.json, problem '1': 'answer' must be the number of a choice, .* not '1'"),
        (scienceqa({"answer": 1.0}), "must be the number of a choice, from 0, not 1.0"),
        (scienceqa({"choices": "ab"}), "'choices' must be a list, not str"),
        (scienceqa({"choices": [None, "b"]}), "'choices' must be text"),
        (scienceqa({"question": None}), "'question' must be text"),
        (scienceqa({"image": ["x"]}), "'image' must be text"),
        (scienceqa({"hint": ["x"]}), "'hint' must be text"),
        (scienceqa({}, ["1", "1"]), "two questions with the id '1'"),
        (scienceqa({}, None), "pid_splits.json: 'test' must be a list"),
        (scienceqa({}, []), "holds no questions"),
        (vqav2(key="asked"), "val2014_questions.json has no 'questions'"),
        (vqav2(asked=None), "'questions' must be a list, not NoneType"),
        (vqav2([ASKED | {"image_id": "COCO_1"}]), "question 1: 'image_id' must be COCO's number"),
        (vqav2([{"question": "?", "question_id": 1}]), "question 1 has no 'image_id'"),
        (vqav2([ASKED | {"question": None}]), "'question' must be text"),
        (vqav2([ASKED, ASKED]), "two questions with the id '1'"),
        (vqav2(annotated=[{}]), "annotation 1 has no 'question_id'"),
        (vqav2(annotated=[ANNOTATED | {"answers": None}]), "'answers' must be a list"),
        (vqav2(annotated=[ANNOTATED | {"answers": [{}]}]), "'answers' must be text or a number, not null"),
        (vqav2(annotated=[ANNOTATED | {"multiple_choice_answer": None}]), "'multiple_choice_answer' must be text"),
        (vqav2(annotated=[]), "Question 1 of .* is not in"),
        (nlvr2({"sentence": None}), "test1.json, line 1: 'sentence' must be text"),
        (nlvr2({"label": None}), "line 1: 'label' must be 'True' or 'False', not 'None'"),
        (nlvr2({}, {}), "two questions with the id 'test1-0-0-0'"),
        (nlvr2(), "holds no questions"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_named(given, message, tmp_path):
    with pytest.raises(DataError, match=message):
        written(tmp_path, *given)


def test_what_is_odd_and_right(tmp_path):
    """Ids of two types in VQAv2's two files; MME's lines with white space behind, beside a hidden folder."""
    (sample,) = written(tmp_path / "v", *vqav2([ASKED | {"question_id": "1"}]))
    assert (sample.answer, sample.id) == ("x", "1")
    kind, split, files = mme("Is it a\u2028b?\tYes \r\nOr?\tNo\t\n\n")
    first, second = written(tmp_path / "m", kind, split, files | {".git/config": ""})
    assert (first.answer, second.answer, first.meta["question"]) == ("Yes", "No", "Is it a\u2028b?")
    unanswered = {"challenge_balanced_questions.json": {"1": {"imageId": "1", "question": "?"}}}
    (sample,) = written(tmp_path / "g", "gqa", "challenge", unanswered)
    assert sample.answer is None


@pytest.mark.parametrize(
    ("given", "scorer"),
    [(gqa(), "gqa"), (textvqa({}), "textvqa"), (pope({}), "pope"), (mme("a?\tYes\nb?\tNo"), "mme"),
     (scienceqa({}), "scienceqa"), (vqav2(), "vqa"), (nlvr2({}), "exact")],
)  # fmt: skip
def test_each_set_is_scored_officially(given, scorer, tmp_path):
    """VQAv2 was scored by exact match with any of the ten answers: far more than VQA accuracy."""
    assert scorer_for(written(tmp_path, *given)).name == scorer


def test_a_limit_keeps_mmes_pairs_whole(tmp_path):
    for number in range(5):
        written(tmp_path, "mme", "test", {f"count/{number}.jpg": "", f"count/{number}.txt": "a?\tYes\nb?\tNo"})
    for limit, pictures in ((2, 1), (3, 1), (8, 4), (10, 5), (99, 5)):
        found = load_samples(f"mme:{tmp_path}", "test", limit)
        assert len(found) == 2 * pictures
        assert len({sample.meta["pair"] for sample in found}) == pictures
        assert scorer_for(found).totals(found, ["yes"] * len(found))["count/accuracy"] == 0.5
    with pytest.raises(DataError, match="--limit must be at least 2"):
        load_samples(f"mme:{tmp_path}", "test", 1)


def test_numbers_of_tables_are_written_as_people_write_them():
    """A column of integers with gaps is one of floats: the answer 3 must not become '3.0', which no model says."""
    assert [scalar(value, "answer", "row 1") for value in (3.0, -2.0, 0.5, 7, 2.0**60)] == [
        "3", "-2", "0.5", "7", "1.152921504606847e+18",
    ]  # fmt: skip
    for value in (float("nan"), float("inf")):
        with pytest.raises(DataError, match=f"row 1: 'answer' is {value}, which is no answer"):
            scalar(value, "answer", "row 1")


def test_files_of_ones_own_can_be_scored_as_public_sets_are():
    """Without what only the sets' readers note: MME's pairs are its pictures, ScienceQA's table is refused by name."""

    def sample(number, answer, **meta):
        return Sample(str(number), [{"role": "user", "content": "?"}], ("a.png",), answer, "count", meta)

    mme_scorer, letters = scorer_for([], "mme"), scorer_for([], "letters")
    assert mme_scorer.totals([sample(1, "yes"), sample(2, "no")], ["yes", "no"])["count/accuracy+"] == 1.0
    with pytest.raises(DataError, match=r"'1' has no 'choices', which ScienceQA's table .* take --score letters"):
        scorer_for([], "scienceqa").totals([sample(1, "B")], ["B"])
    assert letters.scores([sample(1, "(b)", answers=["(b)", "C."])] * 3, ["B", "C) red", "A"]) == [1.0, 1.0, 0.0]
    with pytest.raises(DataError, match=r"'1' is 'red', and not the letter of a choice.* or take --score exact"):
        letters.scores([sample(1, "red")], ["red"])
    both = [sample(1, "red", answers=["crimson", "Scarlet"])] * 4
    for name in ("exact", "gqa"):
        assert scorer_for([], name).scores(both, ["crimson", "scarlet", "red", "blue"]) == [1.0, 1.0, 1.0, 0.0]
    with pytest.raises(DataError, match="'no or yes'; this task knows only"):
        scorer_for([], "pope").scores([sample(1, "yes", answers=["yes", "no"])], ["yes"])
