"""The page is self-contained, complete and names its run; the data under the figures is right without drawing."""

import re

import pytest
from made_up_run import DEPTH, write_made_up_run

from lookaway.core.errors import DataError
from lookaway.core.record import RecordWriter, read_records
from lookaway.reports.collect import collect, histograms
from lookaway.reports.formatting import guarantee_text, summary_table, tiles
from lookaway.reports.pages.page import write_report


@pytest.fixture(scope="module")
def page(records, tmp_path_factory):
    return write_report(records, tmp_path_factory.mktemp("page") / "report.html").read_text()


def test_the_page_needs_no_network_and_no_script(page):
    assert "<script" not in page
    loaded = re.findall(r'(?:src|href)="(?!data:|#)([^"]+)"', page)
    assert loaded == []
    assert "url(http" not in page


def test_everything_has_a_name_for_those_who_do_not_see_it(page):
    figures = re.findall(r"<svg [^>]*>", page)
    assert len(figures) == 12
    assert all('role="img"' in svg and re.search(r'aria-label="[^"]{20,}"', svg) for svg in figures)
    assert all('alt="' in image for image in re.findall(r"<img [^>]*>", page))


def test_ids_of_two_figures_never_meet(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'xlink:href="#([^"]+)"', page))
    assert used <= set(ids)


def test_the_theme_sets_the_ink(page):
    assert "currentColor" in page
    assert "#123456" not in page
    assert "prefers-color-scheme: dark" in page


def test_the_numbers_of_the_records_stand_on_the_page(page):
    for text in (
        "made-up-model",
        "run abc",
        "a made-up machine",
        "97.0 %",
        "processed all 196 visual tokens in layers 0 to 8, none from layer 9 on",
        "exit at 15",
        "97.0 % as good as the full model by agreement",
        "A note.",
    ):
        assert text in page, text


def test_histograms_count_every_sample_with_an_image(records):
    counts = histograms(collect(records), "gates")
    assert list(counts) == ["all", "colour", "count", "easy-yesno", "shape"]
    assert sum(counts["all"]) == 160
    assert counts["all"][DEPTH] == 18  # never: None stands in the last place
    assert [sum(column) for column in zip(*(counts[f] for f in counts if f != "all"), strict=True)] == counts["all"]


def test_records_without_a_run_or_of_two_models_are_refused(tmp_path, records):
    with RecordWriter(tmp_path / "a.jsonl") as writer:
        writer.write("summary", variant="x", rows=[])
    with pytest.raises(DataError, match="no 'run' header"):
        collect(tmp_path / "a.jsonl")
    other = write_made_up_run(tmp_path / "b.jsonl", model="another")
    with pytest.raises(DataError, match="different models are mixed: 'made-up-model' and 'another'"):
        collect([records, other])
    other = write_made_up_run(tmp_path / "c.jsonl", data="other")
    with pytest.raises(DataError, match="different data"):
        collect([records, other])


@pytest.mark.parametrize(
    ("part", "key", "words"),
    [
        ("model", "weights", "the weights"),
        ("samples", "pictures", "the pictures"),
        ("samples", "answers", "the answers"),
    ],
)
def test_records_of_other_contents_under_the_same_names_are_not_mixed(tmp_path, part, key, words):
    facts = {"model": {"weights": "a"}, "samples": {"questions": "q", "pictures": "p", "answers": "t"}}
    header = {"model": "m", "data": "d.json", "dtype": "float32", "run": "1", "command": "eval"}
    files = []
    for number, value in enumerate(("old", "new")):
        own = {**facts, part: {**facts[part], key: value}}
        files.append(tmp_path / f"{number}.jsonl")
        with RecordWriter(files[-1]) as writer:
            writer.write("run", **header, provenance=own)
    with pytest.raises(DataError, match=f"before and after {words} were changed"):
        collect(files)
    assert len(collect([files[0], files[0]]).runs) == 2


def test_a_header_that_lacks_its_command_is_named(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"kind": "run", "model": "m", "data": "d"}\n')
    with pytest.raises(DataError, match="lacks 'command'"):
        collect(tmp_path / "r.jsonl")


def test_a_run_without_results_is_not_drawn_and_nothing_is_left(tmp_path, records):
    first = records.read_text().splitlines()[0]
    (tmp_path / "r.jsonl").write_text(first + "\n")
    with pytest.raises(DataError, match="no results yet"):
        write_report(tmp_path / "r.jsonl", tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


@pytest.mark.parametrize(("kinds", "figures"), [
    (("training",), 1), (("calibration",), 1), (("search",), 1), (("search", "trial"), 2), (("equal-cost",), 3),
    (("sample", "summary"), 2), (("timing",), 1),
])  # fmt: skip
def test_the_records_of_one_command_alone_make_a_page(records, tmp_path, kinds, figures):
    lines = records.read_text().splitlines()
    chosen = [line for line in lines if any(f'"kind": "{kind}"' in line for kind in ("run", *kinds))]
    (tmp_path / "r.jsonl").write_text("\n".join(chosen) + "\n")
    page = write_report(tmp_path / "r.jsonl", tmp_path / "report.html").read_text()
    assert page.count('role="img"') == figures


def test_words():
    assert "at most 2.0 % of the answers differ" in guarantee_text(
        {"threshold": 0.8, "epsilon": 0.02, "delta": 0.05, "samples": 500, "changed": 3, "bound": 0.0154}
    )
    assert "never exits" in guarantee_text({"threshold": None, "epsilon": 0.01, "delta": 0.05, "samples": 50})


def test_cells_and_tiles(records):
    data = collect(records)
    assert tiles(data)[0] == ("70", "of 196 visual tokens processed, in the average layer (gates)")
    head, rows = summary_table(data, "gates")
    assert head[:5] == ["family", "n", "accuracy without", "accuracy with", "retention (95 %)"]
    assert rows[0][:5] == ["all", "40", "90.0 %", "88.0 %", "98.0 % (95.0 to 100.0)"]
    assert {"mean exit", "never exits"} < set(head)


def without_exits(source, target):
    """The same run of a policy that keeps 68 of 196 tokens from layer 2 on, where 10 of 40 samples have an answer."""
    with RecordWriter(target) as writer:
        for record in read_records(source):
            kind = record.pop("kind")
            if kind == "sample":
                record |= {"exit_layer": None, "visual_tokens": [196] * 2 + [68] * (DEPTH - 2)}
            if kind == "summary":
                rows = [{**row, "mean_exit": 30.0, "never_exits": 1.0, "scored": 10} for row in record["rows"]]
                record |= {"rows": rows, "can_exit": False}
            if kind in ("run", "sample", "summary", "picture"):
                writer.write(kind, **record)
    return target


def test_a_policy_that_never_exits_is_told_in_visual_tokens_a_layer(records, tmp_path):
    path = without_exits(records, tmp_path / "r.jsonl")
    page = write_report(path, tmp_path / "report.html").read_text()
    assert "processed 68 of 196 visual tokens from layer 2 on" in page
    for stale in ("mean exit", "never exits", "looked", "layer before which the visual tokens left"):
        assert stale not in page
    head, rows = summary_table(collect(path), "gates")
    assert not {"mean exit", "never exits"} & set(head)
    assert dict(zip(head, rows[0], strict=True))["visual tokens per layer"] == "70 of 196"


def test_both_counts_are_shown_where_some_answers_are_missing(records, tmp_path):
    data = collect(without_exits(records, tmp_path / "r.jsonl"))
    head, rows = summary_table(data, "gates")
    assert rows[0][:3] == ["all", "40", "10"]
    assert head[:3] == ["family", "n", "with an answer"]
    words = [words for _, words in tiles(data)]
    assert "same answer as without, of 40 questions" in words
    assert "of the accuracy kept (90.0 % without, of 10 with an answer)" in words


def write_eval(path, name, policy):
    """Records of an `eval` of one policy, with one baseline beside it."""
    row = {"family": "all", "agreement": [0.5, 0.4, 0.6]}
    with RecordWriter(path) as writer:
        writer.write("run", command="eval", model="m", data="d", provenance={"policy": {"digest": policy}})
        writer.write("summary", variant=name, rows=[row | {"of": name}])
        writer.write("sample", variant="uniform tokens", id="1")
        writer.write("summary", variant="uniform tokens", rows=[row | {"of": name}], beside=name, own_cost=False)
        writer.write("hard", variant=name, beside="uniform tokens", questions=1, retention=[1, 1, 1])
    return path


def test_two_policies_on_one_page_are_told_apart(tmp_path):
    """The later one's baselines stood beside both, and of two by one name the earlier was gone without a word."""
    a, b = write_eval(tmp_path / "a.jsonl", "a", "1"), write_eval(tmp_path / "b.jsonl", "b", "2")
    data = collect([a, b])
    assert {name: found["rows"][0]["of"] for name, found in data.baselines.items()} == {
        "uniform tokens, at the cost of a": "a", "uniform tokens, at the cost of b": "b",
    }  # fmt: skip
    assert list(data.hard) == [("a", "uniform tokens"), ("b", "uniform tokens")]
    assert data.samples == []  # only those of policies
    assert list(collect([a, a]).baselines) == ["uniform tokens"]
    with pytest.raises(DataError, match=r"Two different policies are called 'a' in these records\. .* another --name"):
        collect([a, write_eval(tmp_path / "c.jsonl", "a", "3")])
