"""`lookaway search` on a user's own folder and data: a policy that loads and attaches, and the comparison's page."""

import json

import pytest

import lookaway as la
from lookaway.cli.search import Options, run
from lookaway.core.errors import DataError, SettingsError
from lookaway.core.record import read_records

SMALL = {"limit": 8, "max_new_tokens": 3, "batch_size": 8}


@pytest.fixture
def common(model_folder, data_file):
    return {"model": str(model_folder), "data": str(data_file), **SMALL}


GREEDY = {"stride": 2, "tolerance": 0.1, "resolution": 0.2, "random_trials": 2}


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("p-sigmoid", {"trials": 5, "budget": 0.85}),
        ("g-search", GREEDY),
        ("single-layer", {"trials": 2, "unit": "tokens", "budget": 0.7}),
    ],
)
def test_a_search_ends_in_a_policy_that_attaches(common, tmp_path, method, more):
    from lookaway.anatomy.find import anatomy_of
    from lookaway.models.loading import load_model

    out = tmp_path / "schedule"
    found = run(Options(method=method, out=out, **common, **more))
    policy = la.load(out)
    model, _ = load_model(common["model"], device="cpu")
    assert policy.base == anatomy_of(model).identity
    assert list(policy.keep) == found["rates"]
    with la.attach(model, policy):
        pass
    saved = json.loads((out / "search.json").read_text())
    assert saved["method"] == method
    assert saved["random_trials"] >= 2
    assert len(saved["samples"]) == 8
    assert len(saved["fingerprint"]) == 16
    kinds = [record["kind"] for record in read_records(out / "records.jsonl")]
    assert kinds[0] == "run"
    assert kinds[-1] == "search"
    assert kinds.count("trial") == saved["trials"] + saved["random_trials"] == saved["trials_logged"]
    if method != "g-search":
        assert saved["verdict"]["tokens_share" if method == "single-layer" else "flops_share"] <= found["budget"]


def test_a_finished_search_is_not_made_again_and_another_is_not_mixed_in(common, tmp_path, monkeypatch):
    out = tmp_path / "schedule"
    options = {"method": "linear", "random_trials": 2, "out": out, **common}
    first = run(Options(**options, budget=0.8))
    before = [r["seconds"] for r in read_records(out / "records.jsonl") if r["kind"] == "trial"]
    again = run(Options(**options, budget=0.8))
    assert again["rates"] == first["rates"]
    assert [r["seconds"] for r in read_records(out / "records.jsonl") if r["kind"] == "trial"] == before
    with pytest.raises(DataError, match=r"Different now: budget: 0\.8 -> 0\.9\. Give another --out, or --fresh"):
        run(Options(**options, budget=0.9))
    assert run(Options(**options, budget=0.9, fresh=True))["budget"] == 0.9


def test_the_comparison_writes_its_rows_and_its_page(common, tmp_path):
    out = tmp_path / "compare"
    methods = ("fixed-exit", "fastv", "random-tokens", "random-schedules", "p-sigmoid", "g-search")
    found = run(Options(compare=True, budgets=(0.05, 0.78, 0.88), methods=methods, trials=4, stride=2, resolution=0.3,
                        tolerance=0.2, test_limit=6, out=out, **common))  # fmt: skip
    rows = {(row["method"], row["budget"]): row for row in found["rows"]}
    assert set(rows) == {("full", 1.0), *((method, budget) for method in methods for budget in (0.78, 0.88))}
    assert "too low" in found["notes"][0]
    for (method, budget), row in rows.items():
        assert row["flops_share"] <= budget + 0.02  # made on other samples, of nearly the same lengths
        assert row["samples"] == 6
        if method not in ("full", "fixed-exit"):
            assert row["flops_share"] > budget - 0.05
        assert (row["p_random"] is None) == (method in ("full", "random-schedules"))
    assert rows["full", 1.0]["agreement"][0] == 1.0
    page = (out / "report.html").read_text()
    assert "At equal cost" in page
    assert all(method in page for method in methods)
    assert page.count("<svg") == 4
    kinds = [record["kind"] for record in read_records(out / "records.jsonl")]
    assert kinds.count("equal-cost") == len(rows)


def test_vtw_saves_its_layer_or_says_why_not(common, tmp_path, call):
    found = run(Options(method="vtw", threshold=1e3, out=tmp_path / "vtw", **common))
    assert la.load(tmp_path / "vtw").layer == found["layer"] == 1
    with pytest.raises(DataError, match="Raise --threshold"):
        run(Options(method="vtw", threshold=1e-12, out=tmp_path / "none", **common))


def test_shortv_saves_the_layers_that_a_budget_asks_for(common, tmp_path):
    from lookaway.cli.search_shortv import Options as ShortVOptions
    from lookaway.cli.search_shortv import run as search_shortv

    given = {name: common[name] for name in ("model", "data", "limit", "batch_size")}
    found = search_shortv(ShortVOptions(out=tmp_path / "half", budget=0.8, **given))
    depth = len(found["divergence"])
    count = len(found["frozen"])
    assert found["flops_shares"][count] <= 0.8 < found["flops_shares"][count - 1]
    assert found["flops_shares"][0] == 1
    assert la.load(tmp_path / "half").frozen == tuple(sorted(found["frozen"]))
    assert (
        search_shortv(ShortVOptions(out=tmp_path / "usual", **given))["frozen"]
        == sorted(found["divergence"], key=lambda layer: (found["divergence"][layer], -layer))[: round(0.6 * depth)]
    )
    with pytest.raises(SettingsError, match="Freezing all"):
        search_shortv(ShortVOptions(out=tmp_path / "no", budget=0.01, **given))
    with pytest.raises(SettingsError, match="not both"):
        ShortVOptions(count=1, budget=0.5)


def test_what_cannot_be_searched_is_refused_before_the_model_runs(common, tmp_path, call, data_file):
    base = ["search", "--model", common["model"], "--data", common["data"], "--limit", "6", "--out", tmp_path / "s"]
    for flags, message in [
        (["--method", "linear", "--budget", "0.01"], "is too low for this model"),
        (["--method", "linear", "--budget", "1.5"], "in (0, 1]"),
        (["--ranking", "last-tokn"], "Did you mean 'last-token'"),
        (["--storage", "trials.txt"], "neither a .journal"),
        (["--storage", "postgresql://u:p@127.0.0.1:1/x"], "cannot be used"),
        (["--tolerance", "2"], "--tolerance must lie in"),
        (["--compare", "--split", "all", "--test-split", "all"], "share their questions"),
        (["--method", "anything"], "'p-sigmoid', 'g-search'"),
    ]:
        status, _, err = call(*base, *flags)
        assert status != 0, flags
        assert message in " ".join(err.split()), flags
        assert not (tmp_path / "s" / "config.json").exists()


def test_a_policy_that_was_not_searched_is_not_overwritten(common, tmp_path):
    la.ExitAt(2).save_pretrained(tmp_path / "mine")
    with pytest.raises(DataError, match="holds a policy that was not searched"):
        run(Options(method="linear", out=tmp_path / "mine", **common))
    assert la.load(tmp_path / "mine").layer == 2
