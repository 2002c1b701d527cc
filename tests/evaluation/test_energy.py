"""Energy: what is read is divided by the runs, an estimate is called one, and nothing is sent or left behind."""

import socket
import sys
import time
from functools import partial

import pytest
from fake_codecarbon import FakeTracker, install

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.errors import LookawayError, MissingDependency
from lookaway.core.record import read_records
from lookaway.evaluation import energy
from lookaway.evaluation.energy_meter import EnergyMeter, Reading, source_of


def part(name, **values):
    """Hardware of codecarbon's, which is known by its class and mode."""
    return type(name, (), values)()


RAM, RAPL = part("RAM"), part("CPU", _mode="intel_rapl", _tdp=85)
GUESSED = part("CPU", _mode="cpu_load", _tdp=8)


@pytest.mark.parametrize(
    ("hardware", "words", "measured"),
    [
        ([RAM, RAPL], "CPU: RAPL counters", True),
        ([RAM, GUESSED], "CPU: an estimate, seconds x 8 W x the machine's load", False),
        ([RAM, RAPL, part("GPU")], "CPU: RAPL counters; GPU: counters of the driver", True),
        ([RAM, part("CPU", _mode="constant", _tdp=85), part("GPU")],
         "CPU: an estimate, seconds x 85 W; GPU: counters of the driver", False),
        ([part("AppleSiliconChip")], "CPU: powermetrics", True),
        ([part("NewKind", _mode="new")], "CPU: an estimate", False),
        ([RAM], "an estimate", False),
        ([], "an estimate", False),
    ],
)  # fmt: skip
def test_what_is_no_counter_is_called_an_estimate(hardware, words, measured):
    assert source_of(hardware) == (words, measured)


def test_a_reading_is_divided_by_the_runs_and_leaves_memory_out(monkeypatch):
    install(monkeypatch, watts=10.0, gpu_watts=5.0)
    meter, ran = EnergyMeter(), []
    found = meter.read(lambda: ran.append(FakeTracker.clock.sleep(0.25)), least=1.0)
    assert len(ran) == 4
    assert found == Reading(pytest.approx(15 * 0.25), pytest.approx(5 * 0.25), pytest.approx(0.25))
    once = meter.read(lambda: FakeTracker.clock.sleep(3.0), least=1.0)
    assert once.joules == pytest.approx(45)


def test_a_run_that_fails_ends_the_task_and_no_energy_is_refused(monkeypatch):
    install(monkeypatch, watts=10.0)
    meter = EnergyMeter()
    with pytest.raises(ZeroDivisionError):
        meter.read(lambda: 1 / 0, least=1.0)
    assert meter.read(lambda: FakeTracker.clock.sleep(1.0), least=1.0).joules == pytest.approx(10)
    install(monkeypatch, watts=0.0)
    with pytest.raises(LookawayError, match="force_cpu_power"):
        EnergyMeter().read(lambda: FakeTracker.clock.sleep(1.0), least=1.0)


def test_codecarbon_is_told_to_send_and_to_write_nothing(monkeypatch):
    install(monkeypatch)
    EnergyMeter()
    assert FakeTracker.told["output_methods"] == FakeTracker.told["output_handlers"] == []
    assert FakeTracker.told["emissions_endpoint"] is None
    assert FakeTracker.told["electricitymaps_api_token"] == ""


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(MissingDependency, match=r"lookaway\[energy\]"):
        EnergyMeter()


def test_the_real_package_sends_nothing_says_nothing_and_leaves_no_file(tmp_path, monkeypatch, caplog):
    pytest.importorskip("codecarbon")
    settings = tmp_path / ".codecarbon.config"
    settings.write_text(
        "[codecarbon]\noutput_methods=csv,api\nemissions_endpoint=http://localhost:9\nco2_signal_api_token=a\n"
        "log_level=debug\nforce_cpu_power=50\ncloud_provider=aws\noutput_dir=/nowhere\nmeasure_power_secs=a\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def refuse(*_):
        raise AssertionError("a connection was tried")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    meter = EnergyMeter()
    found = meter.read(lambda: sum(range(1000)), least=0.2)
    assert 0 < found.joules < 50
    words, measured = meter.source
    assert ("estimate" in words) == (not measured)
    assert list(tmp_path.iterdir()) == [settings]
    assert caplog.records == []


class Meter:
    """Joules by hand: 100 of a prefill without a policy, 10 a layer before its exit, and two of each later token."""

    source = ("by hand", True)
    tokens = 1

    def read(self, run, least, device=None):
        run()
        layer = getattr(getattr(run, "policy", None), "layer", 10)
        return Reading(10.0 * layer + 2 * (self.tokens - 1), 0.0, 0.5)


def test_rows_hold_joules_of_a_run_and_of_a_token(monkeypatch):
    example, meter, done = tiny("llava"), Meter(), []

    def parts(model, inputs, new_tokens, decoder):
        def run(tokens):
            meter.tokens = tokens
            model(**inputs)

        return [(part, n, partial(run, n)) for part, n in (("first token", 1), ("decode", new_tokens[0]))]

    monkeypatch.setattr(energy, "timed_parts", parts)
    rows = energy.measure_energy(
        example.model, example.inputs("left_padded"), meter, exits=[2], policies={"mine": la.ExitAt(3)},
        new_tokens=[5], rounds=2, least=0.0, progress=done.append,
    )  # fmt: skip
    assert [(row.part, row.new_tokens, row.variant, row.joules, row.per_token) for row in rows] == [
        ("first token", 1, "exit at 2", 20.0, None),
        ("first token", 1, "idle", 100.0, None),
        ("first token", 1, "mine", 30.0, None),
        ("decode", 5, "exit at 2", 28.0, 2.0),
        ("decode", 5, "idle", 108.0, 2.0),
        ("decode", 5, "mine", 38.0, 2.0),
    ]
    assert done == [1] * 4
    last = rows[-1]
    assert (last.baseline_joules, last.baseline_per_token, last.ratio) == (108.0, 2.0, 108 / 38)
    assert (last.seconds, last.batch_size, last.source, last.measured) == (0.5, 4, "by hand", True)


def test_bench_says_that_an_estimate_is_one_and_the_report_too(call, tmp_path, monkeypatch):
    arguments = (
        "bench", "--shape", "llava-1.5-7b", "--scale", 0.01, "--text-tokens", 4, "--repeats", 1, "--exits", 2,
        "--new-tokens", 3, "--device", "cpu", "--energy", "--out", tmp_path,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    status, _, error = call(*arguments)
    assert status == 1
    assert "lookaway[energy]" in error
    assert not list(tmp_path.iterdir())
    install(monkeypatch, watts=8.0, clock=time)
    monkeypatch.setattr(energy, "LEAST", 0.0)
    status, printed, error = call(*arguments)
    assert status == 0, error
    assert "energy, estimated, decode" in printed
    assert "not measured but estimated from the time" in error
    assert "seconds x 8 W" in error
    rows = [record for record in read_records(tmp_path / "records.jsonl") if record["kind"] == "energy"]
    assert [row["part"] for row in rows] == [part for part in ("decoder", "first token", "decode") for _ in range(4)]
    for row in rows:
        assert row["measured"] is False
        assert row["joules"] == pytest.approx(8 * row["seconds"], rel=0.2)
    status, _, error = call("report", tmp_path)
    assert status == 0, error
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Energy was not measured" in page
    assert "Energy, decode, 3 tokens" in page
    assert "seconds x 8 W" in page
