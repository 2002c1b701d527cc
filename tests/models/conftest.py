"""What tests of folders in published layouts share."""

import shutil

import pytest
from golden_cases import checkpoint


@pytest.fixture(scope="module", autouse=True)
def no_network():
    """The hub is never asked. Set here, as the environment was read at the start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture
def copy(tmp_path):
    """(name of a golden model) -> its checkpoint in a folder that may be spoiled."""
    return lambda name: shutil.copytree(checkpoint(name), tmp_path / name / "model")
