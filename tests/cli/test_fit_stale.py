"""Results of another fit are never shown as this one's: options and files that its trials depend on."""

from fit_cases import arguments, record_of

import lookaway as la
from lookaway import data
from lookaway.data import load_samples


def test_trials_of_shorter_answers_are_not_those_of_longer_ones_and_no_old_held_out_answers_are_drawn(
    call, model_folder, answered, tmp_path
):
    command = arguments(model_folder, answered, tmp_path, "--methods", "exit", "--held-out", 4, "--pictures", 0)
    status, _, error = call(*command)
    assert status == 0, error
    drawn, before = (tmp_path / "report.html").read_text(), (tmp_path / "records.jsonl").read_text()
    status, _, error = call(*command, "--max-new-tokens", 1)
    assert status == 1
    assert "max_new_tokens: 2 -> 1" in error
    assert (tmp_path / "records.jsonl").read_text() == before
    status, _, error = call(*command, "--held-out", 0)  # held-out.jsonl stays, and is not this run's
    assert status == 0, error
    assert "full model" in drawn.lower()
    assert len((tmp_path / "report.html").read_text()) < len(drawn)


def test_trials_of_gates_behind_a_reduction_are_of_the_gates_as_they_lie_there(call, model_folder, answered, tmp_path):
    more = ("--methods", "gates-behind", "--gates-behind-shares", 0.5, "--halvings", 0, "--held-out", 0)
    command = arguments(model_folder, answered, tmp_path, *more)
    status, _, error = call(*command)
    assert status == 0, error
    found = record_of(tmp_path)
    assert call(*command)[0] == 0  # goes on, as nothing changed
    assert record_of(tmp_path)["tried"] == found["tried"]
    folder = tmp_path / "gates-behind" / "0.5"
    gates = la.load(folder)
    gates.gates.b2.data += 5
    gates.save_pretrained(folder)
    status, _, error = call(*command)
    assert status == 1
    assert "gates_behind" in error


def test_a_sample_that_moved_from_one_split_to_the_other_is_another_fit(
    call, model_folder, answered, tmp_path, monkeypatch
):
    """Same questions in the same order, cut elsewhere: a published folder may move a row from file to file."""
    samples, first = load_samples(str(answered), "all", 24), 12

    def cut(spec, split, *more, **settings):
        return samples[:first] if split == "train" else samples[first:]

    monkeypatch.setattr(data, "load_samples", cut)
    command = arguments(model_folder, answered, tmp_path, "--methods", "exit", "--held-out", 0)
    status, _, error = call(*command)
    assert status == 0, error
    first = 13
    status, _, error = call(*command)
    assert status == 1
    assert "samples_of_splits: [12, 12] -> [13, 11]" in error
