"""Evidence: a sample that goes in, a trace of what a run really did, and records (JSONL), all that reports read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .cost import Cost, DecoderShape, prefill_cost
from .errors import DataError, LookawayError
from .files import atomic_path
from .layer_counts import processed

__all__ = ["RecordWriter", "Sample", "Trace", "read_records", "write_records"]


@dataclass(frozen=True)
class Sample:
    """One question about zero or more images, in the chat format of Hugging Face processors."""

    id: str
    messages: list[dict[str, Any]]
    """Chat messages; content parts are {'type': 'image'} and {'type': 'text', 'text': ...}. The last is the user's."""
    images: tuple[Any, ...] = ()
    """PIL images or paths, in the order of the image parts."""
    answer: str | None = None
    """Ground truth; None where there is none."""
    family: str | None = None
    """Question family, for tables split by it."""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The text of the last user message."""
        content = self.messages[-1]["content"]
        if isinstance(content, str):
            return content
        return " ".join(part["text"] for part in content if part.get("type") == "text")

    @property
    def image_key(self) -> str:
        """What is equal for samples with the same pictures: their names, or the digest of their pixels.

        A sample without a picture has its own, since it shares nothing.
        """
        names = self.meta.get("image_names") or [_image_name(image) for image in self.images]
        return "|".join(map(str, names)) or f"sample {self.id}"


@dataclass(frozen=True)
class Trace:
    """What really happened in the prefill of one batch, per layer and row."""

    shape: DecoderShape
    exit_layers: list[int | None]
    """[B]: the visual tokens were removed before this layer (k layers saw them; 0: none ever entered the decoder);
    None: they never all left."""
    visual_tokens: list[list[int]]
    """`[L][B]`: visual tokens that each layer processed."""
    tokens: list[list[int]]
    """`[L][B]`: visual and text tokens that each layer processed, padding apart."""
    cache_slots: list[int]
    """[L]: positions that the layer's KV cache holds for every row after prefill, padding included; 0 where it is
    skipped."""
    notes: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    """Per layer, the numbers a row that the policy noted, e.g. {12: {'exit_probability': [0.93, 0.12]}}."""
    skipped: list[int] = field(default_factory=list)
    """Layers whose attention did not run."""
    replacement_flops: list[list[int]] = field(default_factory=list)
    """`[L][B]`: counted FLOPs of what stood in for skipped attentions; empty where nothing was skipped."""
    first_pass_tokens: list[list[int]] = field(default_factory=list)
    """`[L][B]`: tokens that a first pass processed for rows that looked again, in layers that ran twice for them; 0
    elsewhere. Empty where no row looked again. The other fields are of the pass that a row ended with."""
    columns: int | None = None
    """Positions of the whole prompt, padding included; None: as layer 0's cache."""
    tail: int | None = None
    """From this layer on only positions that generation needs ran: no attention comes after it. None: all ran on."""
    prompt_tokens: list[int] | None = None
    """[B]: visual and text tokens of the prompt; None: those of layer 0 (nothing left before the decoder)."""
    prompt_visual_tokens: list[int] | None = None
    """[B]: visual tokens of the prompt; None: those of layer 0."""
    held: list[int] = field(default_factory=list)
    """Layers that held their visual tokens: of those they made keys and values alone."""
    twig_flops: list[int] = field(default_factory=list)
    """[B]: counted FLOPs of a twig that ranked the visual tokens; empty where there was none."""
    drafted: int = 0
    """Tokens of the answer that were guessed (`la.Draft`); 0 without a draft. A drafted batch has one row."""
    accepted: int = 0
    """Those of them that the model accepted."""
    checks: int = 0
    """Passes of the model that checked guesses; each leaves one token more than it accepted, unless the answer ends."""

    @property
    def acceptance(self) -> float | None:
        """Share of the guessed tokens that was accepted; None: nothing was guessed."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def initial_visual_tokens(self) -> list[int]:
        """[B]: visual tokens of the prompt, those included that never entered the decoder."""
        return self.visual_tokens[0] if self.prompt_visual_tokens is None else self.prompt_visual_tokens

    @property
    def nothing_to_drop(self) -> bool:
        """True where no row had a visual token: a policy was attached and could do nothing."""
        return not any(self.initial_visual_tokens)

    def __str__(self) -> str:
        """One line a row: the visual tokens that its layers processed, what that cost, and what was guessed right."""
        lines = []
        for row in range(len(self.exit_layers)):
            counts, cost = [layer[row] for layer in self.visual_tokens], self.row_cost(row)
            words = processed(counts, self.initial_visual_tokens[row])
            shares = f"{cost.flops_share:.0%} of the prefill FLOPs, {cost.kv_share:.0%} of the KV cache"
            guessed = f"; {self.accepted} of {self.drafted} guessed tokens accepted" if self.drafted else ""
            lines.append(f"row {row}: {words}; {shares}{guessed}")
        return "\n".join(lines)

    def cost(self) -> Cost:
        """FLOPs and KV bytes of this prefill, beside those of the unpruned run."""
        rows = len(self.exit_layers)
        slots = [[n] * rows for n in self.cache_slots]
        whole = None if self.columns is None else [self.columns] * rows
        return prefill_cost(
            self.shape, self.tokens, self.visual_tokens, slots, self.skipped, self._extra_flops(), whole,
            self.prompt_tokens, self.prompt_visual_tokens, self.held,
        )  # fmt: skip

    def row_cost(self, row: int) -> Cost:
        """The same of one row alone, padding apart."""
        tokens, visual, extra = (
            [[layer[row]] for layer in part] for part in (self.tokens, self.visual_tokens, self._extra_flops())
        )
        prompt = [
            None if counts is None else [counts[row]] for counts in (self.prompt_tokens, self.prompt_visual_tokens)
        ]
        return prefill_cost(
            self.shape, tokens, visual, None, self.skipped, extra, prompt[0], prompt[0], prompt[1], self.held
        )

    @property
    def looked_again(self) -> list[bool]:
        """[B]: rows that ran again under a dearer policy (`policies.second_look`)."""
        rows = len(self.exit_layers)
        return [any(layer[row] for layer in self.first_pass_tokens) for row in range(rows)]

    def rows_with_visual(self, layer: int) -> bool:
        """Some row had visual tokens when it left `layer`, in the first of its passes."""
        return any(self.visual_tokens[layer]) or any(self.first_seen(layer))

    def first_seen(self, layer: int) -> list[int]:
        """[B]: tokens that `layer` processed in the first pass of rows that looked again; 0 for the others."""
        return self.first_pass_tokens[layer] if self.first_pass_tokens else [0] * len(self.exit_layers)

    def _extra_flops(self) -> list[list[int]]:
        """[L][B]: counted FLOPs beyond those of `tokens`: of adapters, of a twig, and of a first pass."""
        extra = self.replacement_flops or [[0] * len(layer) for layer in self.tokens]
        if self.twig_flops:
            extra = [[a + b for a, b in zip(extra[0], self.twig_flops, strict=True)], *extra[1:]]
        first = [
            [self.shape.layer_flops(n, layer=i) for n in layer] for i, layer in enumerate(self.first_pass_tokens)
        ] or extra
        if not self.first_pass_tokens:
            return extra
        return [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(extra, first, strict=True)]


class RecordWriter:
    """Appends records to a JSONL file, one flushed line each, so that a kill loses at most the line being written.

    A record is a JSON object with `kind` (str) and plain values. An existing file is kept and continued; a last line
    that a kill cut short is dropped first.

    Raises:
        LookawayError: the disk is full or the file cannot be written; what was written before stays.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _drop_torn_line(self.path)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise LookawayError(f"Cannot write records to {self.path}: {error.strerror or error}.") from error

    def write(self, kind: str, **values: Any) -> None:
        line = json.dumps({"kind": kind, **values}, ensure_ascii=False, default=_plain)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise LookawayError(
                f"Cannot write records to {self.path}: {error.strerror or error}. Earlier records are kept; give the "
                "disk room and run the same command again."
            ) from error

    def close(self) -> None:
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def write_records(path: str | Path, records: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Write a whole file of records, (kind, values) each, atomically: what was in it before is gone."""
    with atomic_path(path) as temporary, RecordWriter(temporary) as writer:
        for kind, values in records:
            writer.write(kind, **values)


def read_records(paths: str | Path | Iterable[str | Path]) -> Iterator[dict[str, Any]]:
    """Yield the records of one or several JSONL files.

    Raises:
        DataError: a file is missing, or a line is no record; the text names file and line.
    """
    for path in [paths] if isinstance(paths, str | Path) else paths:
        try:
            lines = Path(path).read_text(encoding="utf-8").split("\n")  # not splitlines: answers may hold U+2028
        except OSError as error:
            raise DataError(f"Cannot read records from {path}: {error.strerror or error}.") from error
        except UnicodeDecodeError as error:
            raise DataError(f"Cannot read records from {path}: it is no text ({error.reason}).") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                record["kind"]
            except (json.JSONDecodeError, KeyError, TypeError):
                raise DataError(f"{path}, line {number} is no record: {line[:80]!r}.") from None
            facts = record.get("provenance", {})
            parts = [facts.get(part, {}) for part in ("model", "samples")] if isinstance(facts, dict) else [None]
            if not all(isinstance(part, dict) for part in parts):
                raise DataError(f"{path}, line {number}: its provenance is damaged: {str(facts)[:80]!r}.")
            yield record


def _image_name(image: Any) -> str:
    """A path as it stands; of a PIL image the digest of its size and pixels."""
    if isinstance(image, str | Path):
        return str(image)
    return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()


def _drop_torn_line(path: Path) -> None:
    if not path.is_file():  # not there yet, or a device
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        tail = b""
        while end and b"\n" not in tail:  # back to the last line that is whole
            start = max(0, end - 65536)
            file.seek(start)
            tail, end = file.read(end - start), start
        file.truncate(end + tail.rfind(b"\n") + 1)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
