"""Records survive kills, full disks and odd text; what is no record is named with its place."""

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookaway.core.cost import DecoderShape
from lookaway.core.errors import DataError, LookawayError
from lookaway.core.record import RecordWriter, Sample, Trace, read_records

SHAPE = DecoderShape(3, 8, 16, 2, 1, 4, 50)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner), max_leaves=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(TEXT.filter(lambda key: key != "kind"), VALUES, max_size=3), max_size=4))
def test_what_is_written_is_read_back_whatever_the_text(tmp_path, entries):
    path = tmp_path / "r.jsonl"
    path.unlink(missing_ok=True)
    with RecordWriter(path) as writer:
        for entry in entries:
            writer._file.write(json.dumps({"kind": "x", **entry}, ensure_ascii=False) + "\n")
    assert [{k: v for k, v in r.items() if k != "kind"} for r in read_records(path)] == entries


def test_line_separators_inside_an_answer_end_no_record(tmp_path):
    answer = "one\u2028two\x85three\x0bfour\nfive"
    with RecordWriter(tmp_path / "r.jsonl") as writer:
        writer.write("sample", answer=answer)
    assert [r["answer"] for r in read_records(tmp_path / "r.jsonl")] == [answer]


def test_arrays_tensors_dataclasses_and_paths_become_plain(tmp_path):
    with RecordWriter(tmp_path / "r.jsonl") as writer:
        writer.write("x", a=np.arange(2), b=torch.ones(1), c=np.float64(0.5), d=SHAPE, e=tmp_path)
        with pytest.raises(TypeError, match="set is no JSON value"):
            writer.write("x", a=set())
    (record,) = read_records(tmp_path / "r.jsonl")
    assert record["d"]["num_layers"] == 3
    assert (record["a"], record["b"], record["c"], record["e"]) == ([0, 1], [1.0], 0.5, str(tmp_path))


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_line_that_a_kill_cut_short_is_dropped_and_no_other(tmp_path, cut):
    path = tmp_path / "r.jsonl"
    with RecordWriter(path) as writer:
        writer.write("a", n=1)
        writer.write("b", text="größer")
    path.write_bytes(path.read_bytes()[:-cut])
    with RecordWriter(path) as writer:
        writer.write("c")
    assert [r["kind"] for r in read_records(path)] == ["a", "c"]


def test_records_are_on_disk_at_once(tmp_path):
    with RecordWriter(tmp_path / "new" / "r.jsonl") as writer:
        writer.write("a")
        assert len(list(read_records(writer.path))) == 1
        writer.close()
    writer.close()


def test_several_files_follow_each_other(tmp_path):
    for name in ("a", "b"):
        with RecordWriter(tmp_path / name) as writer:
            writer.write(name)
    assert [r["kind"] for r in read_records([tmp_path / "a", str(tmp_path / "b")])] == ["a", "b"]


@pytest.mark.parametrize("line", ["{", "[1]", "{}", "3", "null"])
def test_what_is_no_record_is_named(tmp_path, line):
    (tmp_path / "r.jsonl").write_text('{"kind": "a"}\n\n' + line + "\n")
    with pytest.raises(DataError, match=r"r\.jsonl, line 3 is no record"):
        list(read_records(tmp_path / "r.jsonl"))


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read records from .*none\.jsonl: No such file"):
        list(read_records(tmp_path / "none.jsonl"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="it is no text"):
        list(read_records(tmp_path / "binary"))


def test_a_full_disk_is_an_error_that_says_so(tmp_path):
    with pytest.raises(LookawayError, match=r"/dev/full: No space left on device\. Earlier records are kept"):
        RecordWriter("/dev/full").write("a")
    with pytest.raises(LookawayError, match="Cannot write records"):
        RecordWriter(tmp_path)


@pytest.mark.parametrize(
    "content", ["What?", [{"type": "image"}, {"type": "text", "text": "What?"}], [{"type": "text", "text": "What?"}]]
)
def test_the_question_is_the_text_of_the_last_message(content):
    sample = Sample("1", [{"role": "user", "content": "earlier"}, {"role": "user", "content": content}])
    assert sample.question == "What?"


def test_a_trace_knows_its_cost_and_whether_there_was_anything_to_drop():
    trace = Trace(SHAPE, [1, None], [[4, 0], [0, 0], [0, 0]], [[6, 3], [2, 3], [2, 3]], [6, 3, 3])
    assert not trace.nothing_to_drop
    assert str(trace).splitlines() == [
        f"row 0: processed all 4 visual tokens in layer 0, none from layer 1 on; {trace.row_cost(0).flops_share:.0%} "
        f"of the prefill FLOPs, {trace.row_cost(0).kv_share:.0%} of the KV cache",
        "row 1: no visual tokens in the prompt; 100% of the prefill FLOPs, 100% of the KV cache",
    ]
    cost = trace.cost()
    assert cost.kv_bytes == 2 * SHAPE.kv_bytes(6) + 4 * SHAPE.kv_bytes(3)  # padding is stored too
    assert cost.flops == SHAPE.layer_flops(6) + 2 * SHAPE.layer_flops(2) + 3 * SHAPE.layer_flops(3)
    assert Trace(SHAPE, [None], [[0]] * 3, [[3]] * 3, [3] * 3).nothing_to_drop


def test_reports_need_records_and_no_torch():
    import subprocess
    import sys

    code = "import sys, lookaway.reports.pages.page; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("provenance", [None, 3, ["model"], {"model": None}, {"samples": "all"}])
def test_a_damaged_provenance_is_named_with_its_line(tmp_path, provenance):
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({"kind": "run", "provenance": provenance}) + "\n")
    with pytest.raises(DataError, match=r"r\.jsonl, line 1: its provenance is damaged"):
        list(read_records(file))
