"""The page of a study: complete, self-contained, words from numbers; a sample's tiles are the bytes of its record."""

import base64
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from made_up_run import write_made_up_run
from made_up_study import DEPTH, made_up
from PIL import Image

from lookaway.analysis.findings import find
from lookaway.core.errors import DataError
from lookaway.core.record import RecordWriter, read_records
from lookaway.reports.collect import ReportData, collect
from lookaway.reports.figures.svg import standalone
from lookaway.reports.pages import findings_text as words
from lookaway.reports.pages.findings import study_figure
from lookaway.reports.pages.page import write_report
from lookaway.reports.pages.sample_cards import DARKEST, _words, heat, look_cards, tokens_of


@pytest.fixture(scope="module")
def page(study_records, tmp_path_factory):
    return write_report(study_records, tmp_path_factory.mktemp("page") / "report.html").read_text()


class Balanced(HTMLParser):
    """Raises nothing; remembers tags that are closed in the wrong order, and ids."""

    VOID = frozenset({"meta", "img", "br", "input", "link"})

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.headings = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_is_whole_and_needs_nothing_from_outside(page):
    parser = Balanced()
    parser.feed(page)
    assert (parser.open, parser.wrong) == ([], [])
    assert parser.headings[0] == "h1"
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!data:|#)([^"]+)"', page) == []
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower().replace("finance", "")


def test_every_figure_and_picture_has_a_name(page):
    figures = [svg for svg in re.findall(r"<svg [^>]*>", page) if "aria-hidden" not in svg]
    assert len(figures) == 15
    names = [re.search(r'aria-label="([^"]{30,})"', svg).group(1) for svg in figures]
    assert len(set(names)) == len(names)
    assert all('alt="' in image for image in re.findall(r"<img [^>]*>", page))
    assert re.search(r'class="strip" role="img" aria-label="[^"]{40,}"', page)


def test_ids_are_unique_and_found(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert used <= set(ids)


def test_sentences_tell_what_the_tables_hold(study_records):
    data = collect(study_records)
    lines = " ".join(words.conclusions(data))
    found = data.findings
    cross = found["flow"]["all"]["mean"]["cross"]["mean"]
    assert f"most in layer 0 ({100 * max(cross):.1f} %), least in layer {DEPTH - 1}" in lines
    assert "correlation of -1.00" in lines
    assert "More attention than effect: windows around layers 1–5." in lines
    assert "Less attention than effect: windows around layers 6–10." in lines
    assert "has the largest effect: the loss of the model's own answer rises by" in lines
    assert "100 % of the answers change" in lines
    assert "From an exit before layer 6 of 12 on, at least 95 %" in lines
    assert "Half of the questions could do without the image from layer 5 on, nine in ten from layer 6 on" in lines
    assert "is not there" in lines  # attention only falls
    assert "25 % of the tokens" in lines


def test_what_the_data_does_not_say_is_not_claimed():
    records = [made_up(number) for number in range(3)]
    for record in records:
        record["exits"].update(right=None, full_right=None)
        record["knockout"].update(right=None, full_right=None, loss=[0.3] * 10)
        for query in ("last", "text"):
            record["ranks"][query] = {**record["ranks"][query], "tau": [[float("nan")] * DEPTH] * DEPTH}
    from lookaway.analysis.findings import _plain

    data = ReportData(findings=_plain(find(records)))
    lines = " ".join(words.conclusions(data))
    assert "no ground truth for every question, so accuracy is not shown" in lines
    assert "cannot be compared" in lines
    assert "no rank to compare" in lines
    data.findings["stages"] = None
    assert words.stage_words(data) == ["Too few layers for stages."]


def test_tables_of_numbers_have_a_row_a_layer(study_records):
    data = collect(study_records)
    assert [row[0] for row in words.flow_rows(data)] == [str(layer) for layer in range(DEPTH)]
    assert [row[0] for row in words.cause_rows(data)][:2] == ["0–2", "1–3"]
    assert [row[0] for row in words.stopping_rows(data)] == [*(str(k) for k in range(1, DEPTH)), "never"]
    assert words.stopping_rows(data)[-1][1] == "100.0 %"
    assert len(words.rank_rows(data)) == DEPTH - 1
    for head, rows in ((words.FLOW_HEAD, words.flow_rows), (words.CAUSE_HEAD, words.cause_rows),
                       (words.STOP_HEAD, words.stopping_rows), (words.RANK_HEAD, words.rank_rows)):  # fmt: skip
        assert {len(row) for row in rows(data)} == {len(head)}


def test_tiles_are_the_bytes_of_the_record(study_records):
    data = collect(study_records)
    first, second = look_cards(data)
    tokens = tokens_of(data.studies["0"])
    assert tokens.shape == (DEPTH, 3, 3)
    shade = np.asarray(Image.open(io.BytesIO(base64.b64decode(heat(tokens[2])))))
    assert shade.shape == (3, 3, 2)
    assert (shade[..., 0] == 0).all()
    assert (shade[..., 1] == DARKEST - tokens[2].astype(int) * DARKEST // 255).all()
    assert shade[..., 1].min() == 0  # the highest token is not darkened
    assert len(first["tiles"]) == DEPTH
    assert [tile["mark"] for tile in first["tiles"]] == ["", "", "", "last"] + ["gone"] * 8
    assert first["words"] == "earliest safe exit: before layer 4 of 12 · colour"
    assert second["tiles"] == []  # its tokens do not tile the picture
    assert second["words"] == "needs the image in all 12 layers · shape"
    assert second["reasons_words"] == ["among the latest exits", "right without exit, wrong after one before layer 6"]


def test_a_policys_results_stand_on_the_same_page(study_records, tmp_path):
    other = write_made_up_run(tmp_path / "eval.jsonl")
    lines = [r for r in read_records(study_records) if r["kind"] != "run"]
    run = next(read_records(other))
    with RecordWriter(tmp_path / "study.jsonl") as writer:
        writer.write("run", **{k: v for k, v in run.items() if k != "kind"} | {"command": "analyze"})
        for line in lines:
            writer.write(**line)
    both = write_report([other, tmp_path / "study.jsonl"], tmp_path / "r.html").read_text()
    assert "gates, at equal cost" in both
    assert "1 · Where attention goes" in both
    assert 'id="looks"' in both


def test_records_of_other_models_or_data_are_refused_and_nothing_is_left(study_records, tmp_path):
    for name in ("model", "data"):
        other = write_made_up_run(tmp_path / f"{name}.jsonl", **{name: "another"})
        with pytest.raises(DataError, match=f"different {'models' if name == 'model' else 'data'} are mixed"):
            write_report([study_records, other], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_an_interrupted_drawing_leaves_the_old_page(study_records, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_report(study_records, tmp_path / "report.html")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.html", "old")]


def test_a_figure_of_its_own_is_a_whole_file(study_records):
    data = collect(study_records)
    svg = standalone(study_figure(data, "stopping"), 300)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert root.attrib["width"] == "300"
    assert "prefers-color-scheme:dark" in svg
    with pytest.raises(DataError, match="No figure is called 'nothing'; there are flow, "):
        study_figure(data, "nothing")
    del data.findings["ranks"]
    with pytest.raises(DataError, match="hold no 'ranks'"):
        study_figure(data, "medians")


@pytest.mark.parametrize(("by_policy", "layer", "counts", "wanted"), [
    (True, 2, [16, 16, 0, 0], "processed all 16 visual tokens in layers 0 to 1, none from layer 2 on · colour"),
    (False, 3, [16, 16, 5, 5], "processed 5 of 16 visual tokens from layer 2 on · earliest safe exit: before layer "
     "3 of 4 · colour"),
    (False, None, None, "needs the image in all 4 layers · colour"),
    (True, None, None, "visual tokens stayed in all 4 layers · colour"),
])  # fmt: skip
def test_a_card_says_what_the_policy_left_and_where_an_exit_would_be_safe(by_policy, layer, counts, wanted):
    study = {"num_layers": 4, "family": "colour"}
    policy = None if counts is None else {"visual_tokens": counts, "prompt_visual_tokens": 16}
    assert _words(study, {"by_policy": by_policy, "exit_layer": layer}, policy) == wanted
