"""Which tasks of lmms-eval are meant: names checked, near misses named, and what a task asks shown."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.errors import DataError, MissingDependency

__all__ = ["known_tasks", "named_with_data", "task_manager"]


def task_manager(include_path: str | Path | None = None, defaults: bool = True) -> Any:
    """lmms-eval's index of tasks: its own (without `defaults`: none of them) and those of a folder.

    Raises:
        MissingDependency: lmms-eval is not installed.
        DataError: there is no such folder, or its files cannot be read.
    """
    try:
        from lmms_eval.tasks import TaskManager
    except ImportError as error:
        if (error.name or "").split(".")[0] != "lmms_eval":
            raise
        raise MissingDependency(
            "lmms-eval is not installed. It comes with: pip install 'lookaway[lmms]', and beside a CPU build of torch "
            "with dev/install-lmms, which keeps torch as it is."
        ) from None
    if include_path is not None and not Path(include_path).is_dir():
        raise DataError(f"There is no folder {include_path} of task files (--include-path).")
    path = None if include_path is None else str(include_path)
    try:
        return TaskManager("ERROR", include_path=path, include_defaults=defaults)
    except Exception as error:  # of a user's YAML and of the functions that it names
        if path is None:
            raise
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"The task files in {path} cannot be read: {why}.") from error


def known_tasks(names: Sequence[str], manager: Any) -> list[str]:
    """The names, each checked; a pattern ('mmbench_en_*') becomes the tasks that it matches.

    Raises:
        DataError: nothing has such a name; the text tells the nearest ones.
    """
    wanted: list[str] = []
    for name in names:
        found = manager.match_tasks([name])
        if not found:
            near = difflib.get_close_matches(name, manager.all_tasks, 5, 0.5)
            near += [task for task in manager.all_tasks if name in task and task not in near][: 5 - len(near)]
            cure = f"Near to it: {', '.join(near)}." if near else "lmms-eval tasks list shows all of them."
            raise DataError(f"lmms-eval knows no task {name!r}. {cure}")
        wanted += [task for task in found if task not in wanted]
    if not wanted:
        raise DataError("No task was named: --tasks gqa,textvqa_val,...")
    return wanted


def named_with_data(names: Sequence[str], manager: Any) -> str:
    """'gqa (lmms-lab/GQA), pope (lmms-lab/POPE)': each task with the data set that it reads, where that is known."""
    return ", ".join(f"{name} ({data})" if (data := _data_of(name, manager)) else name for name in names)


def _data_of(name: str, manager: Any) -> str | None:
    """`dataset_path` of a task, or of the first task of a group that names one."""
    from lmms_eval.utils import load_yaml_config

    path = manager.task_index.get(name, {}).get("yaml_path", -1)
    if path == -1:
        return None
    config = load_yaml_config(str(path), mode="simple")
    parts = config.get("task")
    if isinstance(parts, list):
        found = (_data_of(part, manager) for part in parts if isinstance(part, str) and part != name)
        return next(filter(None, found), None)
    return str(config["dataset_path"]) if config.get("dataset_path") else None
