import pytest

from lookaway.core.errors import DataError
from lookaway.core.record import Sample
from lookaway.evaluation.scoring import is_right, normalise, require_answers, same_answer


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("Red.", "red", True),
        (" a red circle ", "Red circle", True),
        ("red circle", "circle", False),
        ("No", "yes", False),
        ("A", "a", True),  # a letter to read, not an article
        ("B", "a", False),
        ("3.5", "3.5", True),
        ("anything", None, None),
    ],
)
def test_exact_match_after_normalising(answer, truth, right):
    assert is_right(answer, truth) is right


def test_agreement_is_stricter_than_being_right():
    assert same_answer(" red\n", "red")
    assert not same_answer("Red", "red")
    assert normalise("The  cat's tail.") == "cat's tail"


def test_accuracy_without_answers_is_refused_by_name():
    with pytest.raises(DataError, match="1 of 2 samples have no answer \\(first: 'b'\\)"):
        require_answers([Sample("a", [], answer="x"), Sample("b", [])])


@pytest.mark.parametrize(
    "answer", ["A", "a", "A.", "(A)", "A)", "A:", " A ", "(a).", "A. red", "(A) red", "The answer is A."]
)
def test_every_way_to_say_a_letter(answer):
    assert is_right(answer, "A")
    assert not is_right(answer, "B")


@pytest.mark.parametrize("answer", ["A cat", "AB", "A or B", "The answer is Apple.", "", "."])
def test_what_names_no_letter_is_not_one(answer):
    assert not is_right(answer, "A")


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("-5", "5", False),
        ("−5", "-5", True),  # the typographic minus
        ("-5", "-5", True),
        ("- 5", "5", True),  # a list's dash is no sign
        ("+5", "5", True),
        (".5", "5", False),
        (".5", "0.5", True),
        ("-.5", "-0.5", True),
        ("5.", "5", True),
        ("5.0", "5", False),  # a measured value may mean its digits
        ("1,000", "1000", True),
        ("1,00", "100", False),
        ("50%", "50", False),
        ("$5", "5", False),
        ("10:30", "1030", False),
        ("2-3", "23", False),
        ("5'", "5", True),
    ],
)
def test_numbers_keep_their_sign_and_point(answer, truth, right):
    assert is_right(answer, truth) is right


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("C++", "C#", False),
        ("C++ and C", "C and C", False),
        ("c++.", "C++", True),
        ("t-shirt", "t shirt", False),
        ("**Red**", "red", True),
        ("'red'", "red", True),
        ("red + blue", "red blue", True),
        ("n/a", "na", False),
    ],
)
def test_marks_inside_a_word_count_and_around_it_not(answer, truth, right):
    assert is_right(answer, truth) is right


def test_c_is_not_c_plus_plus():
    assert normalise("C++") == "c++"
    assert not is_right("C++", "C")  # a single letter is read as a choice, and this is none
    assert not is_right("C", "C++")
