"""`lookaway demo` from its first to its last step, on a tiny model and a user's own file."""

import json

import pytest
import torch

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.cli.demo import Options, first_policy, run, what_happened
from lookaway.models.mini import model as mini


@pytest.fixture
def data(tmp_path, write_questions):
    return write_questions(tmp_path, 60, seed=1, question="what?", answer="ab", family="x")


@pytest.mark.slow
def test_from_a_picture_to_the_report(model_folder, data, tmp_path, capsys):
    out = tmp_path / "demo"
    options = Options(model=str(model_folder), data=str(data), out=out, repeats=1, epsilon=0.9, shares=(0.3, 0.8),
                      held_out=4, max_new_tokens=2, methods=("reduction",))  # fmt: skip
    found = run(options)
    said = capsys.readouterr().out
    assert "asked: what?" in said
    assert f"answered: {found['first']['answer']}" in said
    assert "not certified here" in said
    assert (out / "picture.png").exists()
    assert la.load(out / "fit" / "policy").name == "keep-schedule"
    page = (out / "report.html").read_text()
    for title in ("The cheapest policy that keeps the answers", "At equal cost", "Measured seconds"):
        assert title in page, title
    assert {t["variant"] for t in found["timings"]} == {"exit at 2", "idle", "policy"}

    before = (out / "fit" / "trials.journal").stat().st_size
    run(options)  # what is done already is not done again
    assert (out / "fit" / "trials.journal").stat().st_size <= before + 2000  # only that it was opened


@pytest.mark.parametrize(("threshold", "words"), [(0.0, "no second look needed"), (1.0, "so it looked again")])
def test_what_happened_is_what_the_trace_says(threshold, words):
    example = tiny("llava")
    policy = la.SecondLook(la.FastV(2, 0.75), la.FastV(2, 0.5), threshold)
    with torch.no_grad(), la.attach(example.model, policy) as run:
        example.model(**example.inputs())
    (whole,) = run.trace.initial_visual_tokens
    left = whole // 4 if threshold == 0 else whole // 2
    said = what_happened(run.trace)
    assert said.startswith(f"kept {left} of {whole} visual tokens from layer 2 on, ")
    assert words in said
    assert f"{run.trace.cost().flops_share:.0%} of the prefill FLOPs" in said


def test_a_shipped_policy_is_used_where_it_has_its_certificate(monkeypatch, tmp_path):
    monkeypatch.setattr(mini, "POLICIES", tmp_path)
    policy, folder = first_policy("lookaway-mini-plain", 1)
    assert folder is None
    assert policy.name == "second-look"
    la.ExitAt(7).save_pretrained(tmp_path / "plain")
    assert first_policy("lookaway-mini-plain", 1)[1] is None  # nothing certifies it
    (tmp_path / "plain" / "certificate.json").write_text("{}")
    with pytest.warns(UserWarning, match="changed after it was certified"):
        policy, folder = first_policy("lookaway-mini-plain", 1)
    assert folder == tmp_path / "plain"
    assert policy.layer == 7
    assert first_policy("some/folder", 3)[0].first.layer == 3


def test_what_ships_is_certified_for_its_model():
    for variant in mini.VARIANTS:
        folder = mini.shipped_policy(f"lookaway-mini-{variant}")
        if folder is not None:  # none ships before a real run has certified one
            certificate = json.loads((folder / "certificate.json").read_text())
            assert certificate["bound"] <= certificate["epsilon"]
            assert la.load(folder).base is not None
