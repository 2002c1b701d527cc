"""Our scorers beside lmms-eval's own functions, on thousands of drawn answers: odd marks, spaces, cases and numbers."""

from __future__ import annotations

import random
import re

import pytest
from lmms_eval.api.metrics import anls as harness_anls
from lmms_eval.api.metrics import exact_match_hf_evaluate
from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor
from lmms_eval.tasks.mme.utils import parse_pred_ans

from lookaway.data.vqa_words import normal_answer
from lookaway.evaluation.scorers.anls import anls
from lookaway.evaluation.scorers.exact import gqa_match
from lookaway.evaluation.scorers.vqa import textvqa_answer
from lookaway.evaluation.scorers.yes_no import mme_answer

PIECES = [
    "a", "an", "the", "The", "A", "two", "Two", "none", "ten", "dont", "isnt", "Isnt", "its", "im", "shes", "y'all",
    "yall", "youve", "somebodyd", "somebody'd", "1,000", "3.5", "1,00,", "5.", "...", "Mr.", "u.s.", "p.m.",
    "o'clock", "cat", "black-and-white", "rock&roll", "50%", "$5", "it's", "Joe's", "'s", ",", "?", "!", "-", "'",
    '"', "/", "(x)", "[y]", "_", "é", "何", "ß", "İ", "10:30", "#1", "1/2", "½", "couldntve", "whos", "twas", "'twas",
    "yes", "no", "Yes", "No.", "y", "n", "not", "none,", "nose", "yesterday",
]  # fmt: skip
BETWEEN = (" ", "  ", "", "-", ",", ". ", "\n", "\t", ";", "\u00a0")
LETTERS = "abt 1.,'?!-\t\n;/\"é0"


def drawn(count, seed=0):
    """Answers of such pieces, or of single marks and letters."""
    draw = random.Random(seed)
    for number in range(count):
        if number % 5:
            yield "".join(draw.choice(PIECES) + draw.choice(BETWEEN) for _ in range(draw.randint(1, 6)))
        else:
            yield "".join(draw.choice(LETTERS) for _ in range(draw.randint(0, 12)))


def test_normal_forms_of_vqa_answers():
    theirs = EvalAIAnswerProcessor()
    for answer in drawn(10_000):
        assert textvqa_answer(answer) == theirs(answer), repr(answer)
        if not re.search(r"\d,,+\d", answer):  # the harness takes several commas for one; the published script does not
            plain = answer.replace("\n", " ").replace("\t", " ").strip()
            found = theirs.process_digit_article(theirs.process_punctuation(plain))
            assert normal_answer(answer) == found, repr(answer)


def test_gqa_and_anls_and_mme():
    answers = [answer.replace("İ", "I") for answer in drawn(4000, seed=1)]  # numpy cuts texts that grow in lower case
    draw, equal = random.Random(2), 0
    for answer in answers:
        truth = draw.choice((draw.choice(answers), answer.upper(), answer.replace("-", ""), f" {answer}"))
        found = exact_match_hf_evaluate([answer], [truth], ignore_case=True, ignore_punctuation=True)["exact_match"]
        assert gqa_match(answer, truth) == found, (answer, truth)
        equal += found
        theirs = harness_anls([truth, "cat"], [[answer]])["anls"]
        assert anls(answer, [truth, "cat"]) == pytest.approx(theirs), (answer, truth)
        assert mme_answer(answer) == parse_pred_ans(answer), answer
    assert 1000 < equal < 3900  # both kinds were drawn
