"""One run of lmms-eval, and its errors in a line each: it ends with whatever its tasks' own code raises."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from ...core.errors import DataError, LookawayError, UnsupportedModel
from .tasks import named_with_data

__all__ = ["run_harness"]


def run_harness(model: Any, tasks: Sequence[str], manager: Any, limit: int | None) -> dict[str, Any]:
    """Its results for all tasks; empty in all processes but the first.

    Args:
        limit: at most this many questions per task.

    Raises:
        DataError: a task's data cannot be had; the text tells what to fetch.
        UnsupportedModel: a task wants likelihoods.
        LookawayError: a question cannot be answered, or lmms-eval ended with an error or without a result.
    """
    from lmms_eval.evaluator import simple_evaluate
    from tenacity import RetryError

    try:
        with redirect_stdout(sys.stderr):  # the harness prints progress and tables of its own
            results = simple_evaluate(
                model=model, tasks=list(tasks), task_manager=manager, limit=limit, log_samples=True,
                batch_size=model.batch_size, bootstrap_iters=0, verbosity="ERROR",
            )  # fmt: skip
    except LookawayError:
        raise
    except Exception as error:
        cause = error.last_attempt.exception() if isinstance(error, RetryError) else error  # after five tries
        if isinstance(cause, AssertionError) and "generation only" in str(cause):
            raise UnsupportedModel(
                f"{', '.join(tasks)}: a task scores given answers by their likelihood; lookaway answers by generation "
                "only. Take the task's generative form."
            ) from error
        if not isinstance(cause, OSError):  # the hub's and datasets' errors are OSErrors
            raise LookawayError(
                f"lmms-eval could not evaluate {', '.join(tasks)}: {type(cause).__name__}: {cause}. Nothing was "
                "written; LOOKAWAY_DEBUG=1 shows where it happened."
            ) from error
        if getattr(cause, "filename", None) == "java":  # captions are cut into words by a Java program
            raise LookawayError(
                f"lmms-eval scores {', '.join(tasks)} by a Java program. Install a Java runtime and run the same "
                "command again: the answers are kept."
            ) from error
        first = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise DataError(
            f"The data of {named_with_data(tasks, manager)} cannot be read: {first[:300]}. lmms-eval fetches the data "
            "set that is named in brackets from the Hugging Face hub. Without a network fetch it elsewhere (`hf "
            "download --repo-type dataset NAME`), copy the hub's cache here and set HF_HUB_OFFLINE=1."
        ) from error
    if model.rank:
        return {}
    missing = [task for task in tasks if not any(name.startswith(task) for name in (results or {}).get("results", {}))]
    if not results or not results.get("samples") or missing:
        raise LookawayError(f"lmms-eval left no result of {', '.join(missing or tasks)}.")
    return dict(results)
