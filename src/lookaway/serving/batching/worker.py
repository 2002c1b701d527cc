"""The thread that owns the model: takes requests from a bounded queue, prefills one by one, decodes all together."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...core.decision import Policy
from ...core.errors import LookawayError
from .choosing import end_tokens
from .decoding import DecodeBatch, batch_key
from .model_checks import check_model
from .policy_switch import PolicySwitch
from .prefill import Row, prefill
from .requests import Failed, Finished, Generation, Piece, QueueFull, Stopping

__all__ = ["Worker"]

LOG = logging.getLogger("lookaway.serving")
STOPPED = "The server is stopping. Send the request again, elsewhere or later."
FAILED = "The model failed on this request; the server's log says why."


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
        self.model, self.processor = model, processor
        self.max_batch, self.max_waiting = max_batch, max_waiting
        self.switch = PolicySwitch(model, policies, allow_other_model)
        check_model(model)
        self._ends = end_tokens(model, processor.tokenizer)
        self._penalty = getattr(model.generation_config, "repetition_penalty", None)
        self._wake = threading.Condition()
        self._waiting: deque[Generation] = deque()
        self._reserved = 0
        """Places of requests that were not handed in yet."""
        self._batches: dict[Any, DecodeBatch] = {}
        self._running = 0
        self._stopping = self._aborting = self._ended = False
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
            if not self._ended:
                self._waiting.append(request)
                self._wake.notify()
                return
        request.emit(Failed("stopping", STOPPED))

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
        except Exception:
            LOG.exception("the worker ended")  # a mistake of ours; nobody is left waiting, and /health says so
        finally:
            with self._wake:
                self._stopping = self._ended = True
                left = [*self._waiting, *(row.request for batch in self._batches.values() for row in batch.rows)]
                self._waiting.clear()
            for request in left:
                request.emit(Failed("stopping", STOPPED))
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
            request.emit(Failed("stopping", STOPPED))
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
            key = batch_key(row, self.switch)
        except LookawayError as error:
            request.emit(Failed("refused", str(error)))
            return
        except Exception:
            LOG.exception("a prefill failed")
            request.emit(Failed("internal", FAILED))
            return
        last = self._advance(row, logits)
        if last is not None:
            request.emit(last)
            return
        if key not in self._batches:
            self._batches[key] = DecodeBatch(self.switch, alone=key is not None)
        self._batches[key].add(row)
        self._running += 1

    def _step(self, key: Any) -> None:
        """One token further, for all rows of a batch."""
        batch = self._batches[key]
        last: dict[Row, Finished | Failed] = {}
        try:
            logits = batch.step()
            likeliest = logits.argmax(-1).tolist()  # one wait for the device, for all rows
        except Exception:
            LOG.exception("a decoding step failed")
            last = {row: Failed("internal", FAILED) for row in batch.rows}
        else:
            for i, row in enumerate(batch.rows):
                event = self._advance(row, logits[i], likeliest[i])
                if event is not None:
                    last[row] = event
        self._leave(key, list(last))
        for row, event in last.items():  # whoever has the whole answer sees that its place is free
            row.request.emit(event)

    def _advance(self, row: Row, logits: Tensor, likeliest: int | None = None) -> Finished | Failed | None:
        """Choose and give a row its next token; its last event where it needs no more. What fails here fails for this
        row alone."""
        try:
            if likeliest is None or not row.chooser.plain:
                likeliest = row.chooser.choose(logits, row.tokens)
            return self._take(row, likeliest)
        except Exception:
            LOG.exception("choosing a token failed")
            return Failed("internal", FAILED)

    def _take(self, row: Row, token: int) -> Finished | None:
        """Give a row its next token; its last event where the answer is complete."""
        row.tokens.append(token)
        ended = token in self._ends
        text = "" if ended else row.text.add(token)
        over = ended or row.text.stopped or row.answer_tokens >= row.request.max_new_tokens
        if over:
            text += row.text.end()
        if text and not row.request.cancelled:
            row.request.emit(Piece(text))
        if not over:
            return None
        self._seconds += 0.2 * (time.monotonic() - row.began - self._seconds)
        reason = "stop" if ended or row.text.stopped else "length"
        return Finished(reason, row.prompt_tokens, row.answer_tokens, row.saved)

    def _leave(self, key: Any, rows: list[Row]) -> None:
        if not rows:
            return
        batch = self._batches[key]
        self._running -= len(rows)
        batch.remove(rows)
        if not batch.rows:
            del self._batches[key]
