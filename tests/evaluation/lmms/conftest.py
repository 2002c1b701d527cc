"""These tests need lmms-eval and its environment: `make test-lmms`, which fails where they cannot run."""

import importlib.util

import pytest
from local_task import write_task

collect_ignore_glob = [] if importlib.util.find_spec("lmms_eval") else ["test_*.py"]
TASK, COUNT = "easy_vqa_local", 12


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory):
    """Twelve questions for --include-path."""
    return write_task(tmp_path_factory.mktemp("task"), COUNT, TASK)


@pytest.fixture(scope="session")
def manager(task_folder):
    from lookaway.evaluation.lmms.tasks import task_manager

    return task_manager(task_folder, defaults=False)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    from lookaway.anatomy.tiny import tiny
    from lookaway.anatomy.tiny.processor import tiny_processor

    path = tmp_path_factory.mktemp("model")
    tiny("llava").model.save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return path
