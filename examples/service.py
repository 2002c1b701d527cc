"""An attached model inside a service of your own: mixed batches, a stream, and errors that reach whoever reads it.

Runs in seconds on a tiny random model: python examples/service.py
"""

import base64
import io
import threading

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from PIL import Image
from transformers import TextIteratorStreamer

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.models.encoding import encode

model, processor = tiny("llava").model, tiny_processor()  # yours: la.load_model("lookaway-mini")
handle = la.attach(model, la.ExitAt(2))  # once, when the service starts; yours: la.load("out/fit/policy")
app, turn = FastAPI(), threading.Lock()  # one generation at a time: each uses all cores, or the GPU, anyway


def prompts(asked: list[dict]) -> dict:
    samples = []
    for number, one in enumerate(asked):
        pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for data in one.get("pictures", [])]
        content = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": one["question"]}]
        samples.append(la.Sample(str(number), [{"role": "user", "content": content}], tuple(pictures)))
    return encode(processor, samples, model.device).inputs  # left-padded: rows of any length, with and without pictures


@app.post("/answers")
def answers(asked: list[dict]) -> dict:
    inputs = prompts(asked)
    with turn:
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=8)
        left = handle.trace.visual_tokens[-1]  # by row, in the last layer; [0]: in the first
    texts = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return {"answers": [text.strip() for text in texts], "visual_tokens_left": left}


class Stream(TextIteratorStreamer):
    """What the generating thread raises is raised where the stream is read; else the reader would wait for ever."""

    def __next__(self) -> str:
        piece = super().__next__()
        if isinstance(piece, Exception):
            raise piece
        return piece


def generate(stream: Stream, inputs: dict, max_new_tokens: int) -> None:
    try:
        with turn:
            model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, streamer=stream)
    except Exception as error:
        stream.text_queue.put(error)


@app.post("/stream")
def stream(asked: dict) -> StreamingResponse:
    pieces = Stream(processor.tokenizer, skip_prompt=True, timeout=60, skip_special_tokens=True)
    arguments = (pieces, prompts([asked]), asked.get("max_new_tokens", 8))  # one row: a streamer takes no more
    threading.Thread(target=generate, args=arguments).start()
    return StreamingResponse(pieces, media_type="text/plain")


def main() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, "PNG")
    asked = {"question": "what?", "pictures": [base64.b64encode(buffer.getvalue()).decode()]}
    client = TestClient(app)
    print(client.post("/answers", json=[asked, {"question": "and without a picture?"}]).json())
    print("streamed:", client.post("/stream", json=asked).text)
    try:
        client.post("/stream", json={**asked, "max_new_tokens": 0})
    except ValueError as error:
        print("the reader gets it:", error)


if __name__ == "__main__":
    main()
