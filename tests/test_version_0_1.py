"""What version 0.1 saved and exported still works: policies load and attach, records are read, public names import."""

import json
from pathlib import Path

import pytest
import torch

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.record import read_records
from lookaway.reports.pages.page import write_report

SAVED = Path(__file__).parent / "fixtures" / "v0_1"
POLICIES = sorted(path.name for path in (SAVED / "policies").iterdir())
NAMES = [
    "AdapterShape", "AttentionSkip", "DART", "Decision", "DivPrune", "ExitAt", "ExitGates", "FastV", "FitPrune",
    "KeepAll", "KeepSchedule", "LayerView", "LookawayError", "Policy", "PyramidDrop", "RandomExit", "RandomKeep",
    "Sample", "SkipAdapters", "SparseVLM", "TokenLayout", "Trace", "UniformKeep", "VTW", "VisionZipStyle",
    "VisualExit", "anatomy", "attach", "chain", "load", "merge", "policies", "reference", "unmerge",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_public_names_still_import(name):
    assert getattr(la, name) is not None
    assert name in la.__all__


@pytest.mark.parametrize("name", POLICIES)
def test_saved_policies_load_attach_and_run(name):
    example = tiny("llava", num_layers=4)
    policy = la.load(SAVED / "policies" / name)
    with torch.no_grad(), la.attach(example.model, policy) as run:
        example.model(**example.inputs("left_padded"))
    assert run.trace.visual_tokens[-1] <= run.trace.visual_tokens[0]


def test_the_guarantee_that_0_1_called_a_promise_is_read_and_written_under_its_new_name():
    policy = la.load(SAVED / "policies" / "visual-exit-calibrated")
    saved = json.loads((SAVED / "policies" / "visual-exit-calibrated" / "config.json").read_text())["config"]
    assert dict(policy.guarantee) == saved["promise"] is not None
    assert policy.to_config()["guarantee"] == saved["promise"]
    assert "promise" not in policy.to_config()


def test_records_are_read_and_drawn(tmp_path):
    kinds = {record["kind"] for record in read_records(SAVED / "records.jsonl")}
    assert {"run", "sample", "calibration", "training"} <= kinds
    page = write_report([SAVED / "records.jsonl"], tmp_path / "report.html")
    assert "The guarantee" in Path(page or tmp_path / "report.html").read_text()
