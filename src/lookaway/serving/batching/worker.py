"""The thread that owns the model: takes requests from a bounded queue, prefills one by one, decodes all together."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from ...core.decision import Policy
from ...core.errors import LookawayError
from .choosing import check_generation_config, end_tokens
from .decoding import DecodeBatch, batch_key
from .policy_switch import PolicySwitch
from .prefill import Row, prefill
from .requests import Failed, Finished, Generation, Piece

__all__ = ["QueueFull", "Stopping", "Worker"]

LOG = logging.getLogger("lookaway.serving")


class QueueFull(Exception):
    """Too many requests wait already."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Too many requests wait already. Try again in {seconds:.0f} s.")
        self.seconds = seconds
        """After which a place is likely to be free."""


class Stopping(Exception):
    """The server takes no new requests."""


class Worker:
    """Runs generations on one model, in a thread of its own.

    A request first reserves a place (`reserve`), so that an overloaded server refuses it before anything was computed,
    then is handed in (`submit`) or given up (`release`).

    Args:
        max_batch: rows that decode together.
        max_waiting: requests with a place that do not decode yet.

    Raises:
        LookawayError: a policy does not fit the model, or the model's generation settings are not carried out.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        policies: Mapping[str, Policy],
        max_batch: int = 8,
        max_waiting: int = 32,
        allow_other_model: bool = False,
    ) -> None:
        check_generation_config(model)
        _check_forward(model)
        self.model, self.processor = model, processor
        self.max_batch, self.max_waiting = max_batch, max_waiting
        self.switch = PolicySwitch(model, policies, allow_other_model)
        self._ends = end_tokens(model, processor.tokenizer)
        self._penalty = getattr(model.generation_config, "repetition_penalty", None)
        self._wake = threading.Condition()
        self._waiting: deque[Generation] = deque()
        self._reserved = 0
        """Places of requests that were not handed in yet."""
        self._batches: dict[Any, DecodeBatch] = {}
        self._running = 0
        self._stopping = self._aborting = False
        self._seconds = 1.0
        """What a request took lately, from its prefill to its end (moving average)."""
        self._thread = threading.Thread(target=self._run, name="lookaway-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests with a place that do not decode yet."""
        return self._reserved + len(self._waiting)

    @property
    def running(self) -> int:
        """Rows that decode."""
        return self._running

    @property
    def alive(self) -> bool:
        """Whether requests are being worked on and taken."""
        return self._thread.is_alive() and not self._stopping

    def reserve(self) -> None:
        """Take a place in the queue.

        Raises:
            QueueFull: all places are taken.
            Stopping: the server is about to end.
        """
        with self._wake:
            if self._stopping or not self._thread.is_alive():
                raise Stopping
            if self.waiting >= self.max_waiting:
                raise QueueFull(max(1.0, self._seconds * self.waiting / self.max_batch))
            self._reserved += 1

    def release(self) -> None:
        """Give the place back without handing anything in."""
        with self._wake:
            self._reserved -= 1

    def submit(self, request: Generation) -> None:
        """Hand in a request that has a place."""
        with self._wake:
            self._reserved -= 1
            self._waiting.append(request)
            self._wake.notify()

    def stop(self, finish: bool = True, timeout: float | None = None) -> bool:
        """Take no new requests; end when those taken are done, or at once.

        Args:
            finish: answer what was taken; else it fails with 'stopping'.
            timeout: seconds to wait; after them the rest fails with 'stopping'.

        Returns:
            Whether the thread has ended.
        """
        with self._wake:
            self._stopping = True
            self._aborting = self._aborting or not finish
            self._wake.notify()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._aborting = True
            self._thread.join(timeout)
        return not self._thread.is_alive()

    # the thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                with self._wake:
                    while not (self._waiting or self._batches or self._stopping):
                        self._wake.wait()
                    if self._stopping and not self._waiting and not self._batches and not self._reserved:
                        return
                    if self._stopping and not self._waiting and not self._batches:
                        self._wake.wait(0.1)  # somebody still prepares a request that has a place
                self._drop()
                self._admit()
                for key in list(self._batches):
                    self._step(key)
        finally:
            self.switch.close()

    def _drop(self) -> None:
        """Forget requests that nobody waits for any more."""
        with self._wake:
            waiting = list(self._waiting)
        for request in waiting:
            if self._is_over(request):
                with self._wake:
                    self._waiting.remove(request)
        for key, batch in list(self._batches.items()):
            self._leave(key, [row for row in batch.rows if self._is_over(row.request)])

    def _is_over(self, request: Generation) -> bool:
        if request.cancelled:
            return True
        if self._aborting:
            request.emit(Failed("stopping", "The server is stopping. Send the request again, elsewhere or later."))
            return True
        if request.late:
            request.emit(Failed("deadline", "The answer was not complete at the request's deadline."))
            return True
        return False

    def _admit(self) -> None:
        """Prefill the request that has waited longest, where there is room for its row."""
        with self._wake:
            if not self._waiting or self._running >= self.max_batch:
                return
            request = self._waiting.popleft()
        began = time.monotonic()
        try:
            row, logits = prefill(self.switch, request, self.processor.tokenizer, self._penalty)
            row.saved["queue_seconds"] = began - request.arrived
            row.began = began
            token = row.chooser.choose(logits, row.tokens)
        except LookawayError as error:
            request.emit(Failed("refused", str(error)))
            return
        except Exception:
            LOG.exception("a prefill failed")
            request.emit(Failed("internal", "The model failed on this request; the server's log says why."))
            return
        if self._take(row, token):
            return
        key = batch_key(row, self.switch)
        if key not in self._batches:
            self._batches[key] = DecodeBatch(self.switch, alone=key is not None)
        self._batches[key].add(row)
        self._running += 1

    def _step(self, key: Any) -> None:
        batch = self._batches[key]
        try:
            logits = batch.step()
            likeliest = logits.argmax(-1).tolist()  # one wait for the device, for all rows
            tokens = [
                likeliest[i] if row.chooser.plain else row.chooser.choose(logits[i], row.tokens)
                for i, row in enumerate(batch.rows)
            ]
        except Exception:
            LOG.exception("a decoding step failed")
            for row in batch.rows:
                row.request.emit(Failed("internal", "The model failed on this request; the server's log says why."))
            self._leave(key, batch.rows)
            return
        self._leave(key, [row for row, token in zip(batch.rows, tokens, strict=True) if self._take(row, token)])

    def _take(self, row: Row, token: int) -> bool:
        """Give a row its next token; True where the answer is complete."""
        row.tokens.append(token)
        ended = token in self._ends
        text = "" if ended else row.text.add(token)
        full = row.answer_tokens >= row.request.max_new_tokens
        over = ended or row.text.stopped or full
        if over:
            text += row.text.end()
        if text and not row.request.cancelled:
            row.request.emit(Piece(text))
        if not over:
            return False
        self._seconds += 0.2 * (time.monotonic() - row.began - self._seconds)
        if not row.request.cancelled:
            reason = "stop" if ended or row.text.stopped else "length"
            row.request.emit(Finished(reason, row.prompt_tokens, row.answer_tokens, row.saved))
        return True

    def _leave(self, key: Any, rows: list[Row]) -> None:
        if not rows:
            return
        batch = self._batches[key]
        self._running -= len(rows)
        batch.remove(rows)
        if not batch.rows:
            del self._batches[key]


def _check_forward(model: Any) -> None:
    """Raise LookawayError where the model's forward lacks what decoding in batches hands over."""
    known = inspect.signature(type(model).forward).parameters
    missing = [name for name in ("position_ids", "past_key_values", "logits_to_keep") if name not in known]
    if missing:
        raise LookawayError(
            f"{type(model).__name__}.forward takes no {', '.join(missing)}, so answers cannot be decoded in batches. "
            "Attach the policy in a service of your own instead (docs/service.md)."
        )
