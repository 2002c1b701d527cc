"""The order of samples: files come sorted by kind of question."""

from lookaway.data import load_samples
from lookaway.search.trials.samples import shuffled


def test_every_part_of_a_shuffled_split_has_both_kinds_of_questions():
    samples = load_samples("mini", "train", 40, 0, distinct_images=True)
    easy = [sample.family.startswith("easy") for sample in samples]
    assert not any(easy[:20])  # sorted
    order = shuffled(samples, 0)
    assert sorted(s.id for s in order) == sorted(s.id for s in samples)
    assert [s.id for s in order] == [s.id for s in shuffled(samples, 0)] != [s.id for s in shuffled(samples, 1)]
    for part in (order[:20], order[20:]):
        assert 3 <= sum(s.family.startswith("easy") for s in part) <= 17
