import base64
import io
import sys
from pathlib import Path

import pytest
from made_up_run import write_made_up_run

sys.path.append(str(Path(__file__).parents[1] / "analysis"))


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    return write_made_up_run(tmp_path_factory.mktemp("records") / "records.jsonl")


@pytest.fixture(scope="session")
def study_records(tmp_path_factory):
    """Records of a made-up study: a run, twelve questions, their findings and two pictures."""
    from made_up_study import DEPTH, made_up
    from PIL import Image

    from lookaway.analysis.findings import write_findings
    from lookaway.core.record import RecordWriter

    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), (90, 160, 220)).save(buffer, "PNG")
    path = tmp_path_factory.mktemp("study") / "records.jsonl"
    with RecordWriter(path) as writer:
        writer.write(
            "run", run="abc", command="analyze", model="made-up-model", data="made-up-data", seed=0, dtype="float32",
            base_model={"architecture": "Llava", "num_layers": DEPTH, "hidden_size": 576, "vocab_size": 9}, options={},
            attention="sdpa", config_hash="123", hardware="a made-up machine", versions={"lookaway": "0"},
            argv=["lookaway", "analyze"], created="2026-01-01T00:00:00+00:00",
        )  # fmt: skip
        records = [made_up(number, family=("colour", "shape")[number % 2]) for number in range(12)]
        for record in records:
            writer.write("study", **record)
        write_findings(writer, records)
        png = base64.b64encode(buffer.getvalue()).decode()
        writer.write("look", id="0", reasons=["earliest"], png=png, aligned=True, by_policy=False, exit_layer=4)
        writer.write("look", id="5", reasons=["latest", "wrong_after"], png=png, aligned=False, by_policy=False,
                     exit_layer=None)  # fmt: skip
    return path
