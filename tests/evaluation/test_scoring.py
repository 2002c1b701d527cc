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
