"""`lookaway serve` under load: open-loop arrivals with and without its policy, saturation, hostile clients, memory.

    python benchmarks/serving.py --requests 60 --rates 0.3 0.6 --out out/serving.json

Starts the server in a process of its own on 127.0.0.1 and asks it alone. Arrivals are Poisson: a request is sent when
its time has come, whether or not earlier ones were answered, so that waiting shows. Phases with the policy and without
it take turns on the same server, with the same requests at the same times. Every answer is compared with the one that
the same request got when it was alone. Every phase is bounded by a number of requests.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import numpy as np
from PIL import Image, ImageDraw

from lookaway.core.files import write_json
from lookaway.evaluation.header import machine

COLOURS = ("red", "blue", "green", "black", "yellow", "gray")
QUESTIONS = ("what shape is in the image?", "what color is the shape?", "is there a circle?", "is there a blue shape?")
CHAT = "/v1/chat/completions"


def requests_of(args, draw):
    """Bodies of `args.requests` different requests, some of them without a picture."""
    for number in range(args.requests):
        text = {"type": "text", "text": draw.choice(QUESTIONS)}
        parts = [text] if draw.random() < args.text_only else [picture(draw), text]
        yield {"messages": [{"role": "user", "content": parts}], "max_tokens": draw.choice(args.tokens), "seed": number}


def picture(draw):
    image = Image.new("RGB", (112, 112), "white")
    x, y = draw.randint(5, 60), draw.randint(5, 60)
    getattr(ImageDraw.Draw(image), draw.choice(("ellipse", "rectangle")))((x, y, x + 40, y + 40), draw.choice(COLOURS))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"type": "image_url", "image_url": {"url": data_url(buffer.getvalue())}}


def data_url(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


async def ask(client, body, policy):
    """Send one request as a stream; (status, answer, seconds to the first text, seconds to the end)."""
    body = {**body, "stream": True, "lookaway": {"policy": policy}}
    began, first, text = time.perf_counter(), None, ""
    async with client.stream("POST", CHAT, json=body) as reply:
        if reply.status_code != 200:
            await reply.aread()
            return reply.status_code, None, None, None
        complete = False
        async for line in reply.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                complete = True
                continue
            choices = json.loads(line[6:]).get("choices") or [{"delta": {}}]
            piece = choices[0]["delta"].get("content")
            if piece and first is None:
                first = time.perf_counter() - began
            text += piece or ""
    return (200 if complete else -1), text, first, time.perf_counter() - began


async def open_loop(client, bodies, policy, rate, seed):
    """Poisson arrivals at `rate` a second."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, len(bodies))
    tasks, due = [], time.perf_counter()
    for body, gap in zip(bodies, gaps, strict=True):
        due += gap
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(client, body, policy)))
    return await asyncio.gather(*tasks)


async def saturated(client, bodies, policy, clients):
    """`clients` that each send the next request when they have their answer."""
    left, found = list(bodies), []

    async def one():
        while left:
            found.append(await ask(client, left.pop(), policy))

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    return found, time.perf_counter() - began


def summary(found):
    """Percentiles of the answered requests, and how many were not."""
    good = [row for row in found if row[0] == 200]
    statuses = {str(status): sum(row[0] == status for row in found) for status in sorted({row[0] for row in found})}
    out = {"requests": len(found), "statuses": statuses}
    for name, column in (("first", 2), ("whole", 3)):
        values = [row[column] for row in good if row[column] is not None]
        out[name] = {f"p{p}": float(np.percentile(values, p)) for p in (50, 95, 99)} if values else None
    return out


async def hostile(client, args, draw):
    """Clients that mean no good, or whose network is bad; what the server says to them, by status."""
    body = next(requests_of(args, draw))
    seen = {}

    def note(kind, status):
        seen.setdefault(kind, {}).setdefault(str(status), 0)
        seen[kind][str(status)] += 1

    async def abort(number):
        try:
            async with (
                asyncio.timeout(0.02 * (number % 40)),
                client.stream("POST", CHAT, json={**body, "stream": True}) as reply,
            ):
                async for _ in reply.aiter_raw():
                    break
            note("aborted", "closed")
        except (TimeoutError, httpx2.HTTPError):
            note("aborted", "closed")

    async def slow(number):
        async with client.stream("POST", CHAT, json={**body, "stream": True}) as reply:
            async for _ in reply.aiter_raw(chunk_size=16):
                await asyncio.sleep(0.02)
        note("slow reader", reply.status_code)

    async def raw(kind, content):
        try:
            reply = await client.post(CHAT, content=content, headers={"Content-Type": "application/json"})
        except httpx2.TransportError as error:  # the server cut off a client that sent far too much
            return note(kind, type(error).__name__)
        note(kind, reply.status_code)
        assert reply.status_code < 500 or reply.status_code == 503, (kind, reply.text)

    for first in range(0, args.aborted, 20):
        await asyncio.gather(*(abort(number) for number in range(first, min(first + 20, args.aborted))))
    await asyncio.gather(*(slow(number) for number in range(args.slow)))
    whole = json.dumps(body).encode()
    for _ in range(args.fuzzed):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        await raw("fuzzed", bytes(damaged))
    many = [{"type": "image_url", "image_url": {"url": "data:,"}}] * 10_000
    await raw("10,000 pictures", json.dumps({"messages": [{"role": "user", "content": many}]}))
    await raw("deep", b"[" * 1_000_000)
    await raw("large body", b" " * 40_000_000)
    await raw("huge body", b" " * 200_000_000)
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")  # 400 million pixels in a few kilobytes
    bomb = {"type": "image_url", "image_url": {"url": data_url(buffer.getvalue())}}
    await raw("bomb", json.dumps({"messages": [{"role": "user", "content": [bomb]}]}))
    return seen


def start(args):
    """The server, when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "lookaway",
        "serve",
        "--model",
        args.model,
        "--port",
        str(port),
        "--timeout",
        "600",
    ]
    command += ["--max-waiting", str(args.max_waiting), "--max-batch", str(args.max_batch)]
    if args.policy:
        command += ["--policy", f"default={args.policy}"]
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                return process, f"http://127.0.0.1:{port}"
        except httpx2.HTTPError:
            pass
        if process.poll() is not None:
            raise SystemExit(process.stderr.read())
        time.sleep(0.5)
    raise SystemExit("The server did not start.")


def memory(process):
    """Megabytes that the server holds."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    return float("nan")


async def measure(args, process, address):
    draw = random.Random(args.seed)
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=address, timeout=900, limits=limits) as client:
        bodies = list(requests_of(args, draw))
        alone = {policy: [await ask(client, body, policy) for body in bodies] for policy in ("off", "default")}
        result = {"alone": {policy: summary(found) for policy, found in alone.items()}, "open_loop": [], "wrong": 0}
        result["same_answers"] = float(
            np.mean([a[1] == b[1] for a, b in zip(alone["off"], alone["default"], strict=True)])
        )
        result["memory_mb"] = [memory(process)]

        def judge(found, policy):
            result["wrong"] += sum(
                got[0] == 200 and got[1] != own[1] for got, own in zip(found, alone[policy], strict=True)
            )

        for round_ in range(args.rounds):
            for rate in args.rates:
                for policy in ("off", "default") if round_ % 2 == 0 else ("default", "off"):
                    found = await open_loop(client, bodies, policy, rate, args.seed + round_)
                    judge(found, policy)
                    result["open_loop"].append({"rate": rate, "policy": policy, "round": round_, **summary(found)})
                    print(json.dumps(result["open_loop"][-1]), flush=True)
            result["memory_mb"].append(memory(process))
        result["saturated"] = {}
        for policy in ("off", "default"):
            found, seconds = await saturated(client, bodies, policy, args.max_batch)
            result["saturated"][policy] = {**summary(found), "requests_per_second": len(found) / seconds}
        result["hostile"] = await hostile(client, args, draw)
        for _ in range(600):
            state = (await client.get("/health")).json()
            if state["waiting"] == state["running"] == 0:
                break
            await asyncio.sleep(0.5)
        result["after"] = state
        result["memory_mb"].append(memory(process))
        again = [await ask(client, body, "default") for body in bodies[:5]]
        result["wrong"] += sum(got[1] != own[1] for got, own in zip(again, alone["default"], strict=False))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lookaway-mini")
    parser.add_argument("--policy", help="folder or YAML file; default: the default model's own gates")
    parser.add_argument("--requests", type=int, default=60, help="of each phase")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.3, 0.6], help="arrivals a second")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--text-only", type=float, default=0.25, help="share of requests without a picture")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4, 16, 32], help="longest answers, drawn from these")
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--max-waiting", type=int, default=256)
    parser.add_argument("--aborted", type=int, default=200)
    parser.add_argument("--slow", type=int, default=8)
    parser.add_argument("--fuzzed", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/serving.json"))
    args = parser.parse_args()
    process, address = start(args)
    try:
        result = asyncio.run(measure(args, process, address))
    finally:
        process.terminate()
        errors = process.communicate(timeout=120)[1]
    result["tracebacks"] = errors.count("Traceback")
    result["exit_status"] = process.returncode
    result["load_average"] = os.getloadavg()
    result["arguments"] = {key: str(value) for key, value in vars(args).items()}
    result |= machine("cpu")
    write_json(args.out, result)
    print(json.dumps({key: value for key, value in result.items() if key != "open_loop"}, indent=1))
    bad = result["wrong"] or result["tracebacks"] or result["exit_status"] or result["after"]["running"]
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
