"""Answers of several rows, streamed while one batch decodes (tiny random model): python examples/streams.py"""

import queue
import threading
from collections.abc import Iterator

from PIL import Image
from transformers import TextStreamer
from transformers.generation.streamers import BaseStreamer

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.models.encoding import encode


class Row(TextStreamer):
    """Turns one row's tokens into pieces of text, word by word."""

    def __init__(self, tokenizer, number: int, pieces: queue.Queue) -> None:
        super().__init__(tokenizer, skip_special_tokens=True)
        self.number, self.pieces = number, pieces

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.pieces.put((self.number, text))


class Streams(BaseStreamer):
    """Yields (row, piece of text); `generate` gives it the prompt [B, S] first and then each step's tokens [B]."""

    def __init__(self, tokenizer, rows: int, ends: set[int], timeout: float = 60) -> None:
        self.pieces, self.ends, self.timeout = queue.Queue(), ends, timeout
        self.open = {number: Row(tokenizer, number, self.pieces) for number in range(rows)}

    def put(self, value) -> None:
        if value.dim() == 2:  # the prompt
            return
        for number, token in enumerate(value.tolist()):
            if number in self.open:  # what comes behind a row's end is padding
                self.open.pop(number).end() if token in self.ends else self.open[number].put(value[number : number + 1])

    def end(self) -> None:
        [row.end() for row in self.open.values()]
        self.pieces.put(None)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        while (piece := self.pieces.get(timeout=self.timeout)) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece


def stream(model, processor, samples: list[la.Sample], max_new_tokens: int = 8) -> Streams:
    """Start answering all samples in one batch, in a thread whose exception reaches whoever reads the streams."""
    inputs = encode(processor, samples, model.device).inputs  # padded on the left
    end = model.generation_config.eos_token_id
    ends = {end} if isinstance(end, int) else set(end or [])
    pieces = Streams(processor.tokenizer, len(samples), ends)

    def generate() -> None:
        try:
            model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, streamer=pieces)
        except Exception as error:
            pieces.pieces.put(error)

    threading.Thread(target=generate).start()
    return pieces


def main() -> None:
    model, processor = tiny("llava").model, tiny_processor()  # yours: la.load_model("lookaway-mini")
    picture, ask = Image.new("RGB", (16, 16), "red"), {"type": "text", "text": "what?"}
    samples = [
        la.Sample("0", [{"role": "user", "content": [{"type": "image"}, ask]}], (picture,)),
        la.Sample("1", [{"role": "user", "content": [ask]}], ()),
    ]
    with la.attach(model, la.ExitAt(2)):  # yours: la.load("out/fit/policy")
        for row, piece in stream(model, processor, samples):
            print(f"row {row}: {piece!r}")


if __name__ == "__main__":
    main()
