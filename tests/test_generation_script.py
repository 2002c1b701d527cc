"""`benchmarks/generation.py`: every variant answers and is timed, and an answer that a draft changed stops it."""

import runpy
from argparse import Namespace
from pathlib import Path

import pytest

import lookaway as la
from lookaway.anatomy.tiny import IMAGE, tiny

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "generation.py"), run_name="generation")


@pytest.fixture
def subject(tmp_path):
    """A model, one prompt, and all the script's variants for them."""
    model, inputs = tiny("llava").model, tiny("llava").inputs()
    model.generation_config.suppress_tokens = [IMAGE]
    la.Twig(start=2, depth=1).save_pretrained(tmp_path)
    how = {"policy": None, "model": "tiny", "assistant": None, "guesses": 3, "confidence": 0.0}
    options = Namespace(layers=[2, 3], twig=tmp_path, **how)
    return model, [inputs], SCRIPT["variants_of"](model, options)


def test_what_is_accepted_and_what_it_takes(subject):
    model, prompts, variants = subject
    names = [variant.name for variant in variants]
    assert names[0] == "bare, no draft"
    assert len(set(names)) == len(names) == 2 * 5
    length = {"max_new_tokens": 6, "min_new_tokens": 6}
    found = SCRIPT["accepted"](model, prompts, variants, **length)
    assert all(row["tokens"] == 6 for row in found.values())
    assert {name for name, row in found.items() if row["drafted"]} == {
        f"{policy}, {draft}" for policy in ("bare", "FastV") for draft in ("early exit 2", "early exit 3", "twig")
    }
    assert all(row["acceptance"] == row["accepted"] / row["drafted"] for row in found.values() if row["drafted"])
    times = SCRIPT["timed"](model, prompts, variants, 1, length)
    assert list(times) == names
    assert all(len(timing.runs) == 1 for timing in times.values())
    la.attach(model, la.KeepAll()).detach()  # nothing is attached any more


def test_another_answer_stops_it(subject, monkeypatch):
    model, prompts, variants = subject
    usual = type(model).generate

    def otherwise(self, *args, **kwargs):
        ids = usual(self, *args, **kwargs)
        if "assistant_early_exit" in kwargs:
            ids[0, -1] += 1
        return ids

    monkeypatch.setattr(type(model), "generate", otherwise)
    with pytest.raises(SystemExit, match="bare, early exit 2: these are not the answers without a draft"):
        SCRIPT["accepted"](model, prompts, variants, max_new_tokens=4)
