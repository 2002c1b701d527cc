"""The wheel: it builds offline, with the default model's weights and without tests, and has the stated size."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lookaway"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-q", "-w", str(folder)], check=True, timeout=120)
    (path,) = folder.glob("lookaway-*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.file_size for entry in archive.infolist()}


def test_every_tracked_file_of_the_package_is_inside(contents):
    listed = subprocess.run(["git", "ls-files", "src/lookaway"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    tracked = {name.removeprefix("src/") for name in listed.stdout.split() if (ROOT / name).exists()}
    assert len(tracked) > 100
    assert tracked <= contents.keys()


def test_nothing_but_the_package_is_inside(contents):
    foreign = [name for name in contents if not re.match(r"lookaway(-[\d.]+\w*\.dist-info)?/", name)]
    assert not foreign
    unwanted = [name for name in contents if re.search(r"(^|/)(tests?|benchmarks|docs|__pycache__)/|\.pyc$", name)]
    assert not unwanted


def test_the_weights_of_the_default_model_are_inside(contents):
    weights = {path.name: path.stat().st_size for path in (SOURCE / "models/mini/weights").glob("*.safetensors")}
    assert set(weights) == {"exit-aware.safetensors", "plain.safetensors", "vision.safetensors"}
    for name, size in weights.items():
        assert contents[f"lookaway/models/mini/weights/{name}"] == size
    for variant in ("exit-aware", "plain"):
        assert f"lookaway/models/mini/weights/gates-{variant}/model.safetensors" in contents


def test_its_size_is_the_one_that_the_documentation_states(wheel):
    stated = re.search(r"The wheel has (\d+) MB", (ROOT / "docs" / "lookaway-mini.md").read_text())
    assert stated is not None
    assert wheel.stat().st_size / 1e6 == pytest.approx(int(stated[1]), abs=1)
