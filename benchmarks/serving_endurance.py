"""`lookaway serve` for half an hour, and then killed under load: does its memory grow, and which requests fail?

    python benchmarks/serving_endurance.py --minutes 30 --out out/serving-endurance.json

Requests with and without a picture, with the policy and without it, some of them given up half-way, in rounds until the
time is over. After each round the server's resident memory is read; the first rounds, in which caches and allocators
fill, do not count. Then `--killed` requests are under way when the process gets SIGKILL: how many had been answered,
and what the others' clients saw. A server that is started again must give the same answers. Exit status 1: memory grew
by more than `--most-growth` megabytes, an answer differs, or a row stayed behind. It asks 127.0.0.1 alone.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import time
from pathlib import Path

import httpx2
import numpy as np

from lookaway.core.files import write_json
from lookaway.evaluation.header import machine
from serving import CHAT, ask, memory, requests_of, start


async def give_up(client, body, after):
    """A client that closes its stream after so many seconds."""
    try:
        async with asyncio.timeout(after), client.stream("POST", CHAT, json={**body, "stream": True}) as reply:
            async for _ in reply.aiter_raw():
                pass
    except (TimeoutError, httpx2.HTTPError):
        pass


async def one_round(client, bodies, expected, draw):
    """All requests once, `--max-batch` clients' worth at a time; how many answers differ."""
    jobs = [(index, draw.choice(("off", "default"))) for index in range(len(bodies))]
    wrong = 0
    for first in range(0, len(jobs), 8):
        part = jobs[first : first + 8]
        found, *_ = await asyncio.gather(
            asyncio.gather(*(ask(client, bodies[index], policy) for index, policy in part)),
            give_up(client, draw.choice(bodies), draw.uniform(0.05, 1.0)),
        )
        wrong += sum(
            got[0] == 200 and got[1] != expected[policy][index]
            for (index, policy), got in zip(part, found, strict=True)
        )
    return wrong


async def answers(client, bodies):
    return {policy: [(await ask(client, body, policy))[1] for body in bodies] for policy in ("off", "default")}


async def endure(args, process, address):
    draw = random.Random(args.seed)
    async with httpx2.AsyncClient(base_url=address, timeout=900) as client:
        bodies = list(requests_of(args, draw))
        expected = await answers(client, bodies)
        result = {"memory_mb": [memory(process)], "rounds": 0, "wrong": 0}
        began, most = time.monotonic(), 10_000
        while time.monotonic() - began < 60 * args.minutes and result["rounds"] < most:
            result["wrong"] += await one_round(client, bodies, expected, draw)
            result["rounds"] += 1
            result["memory_mb"].append(memory(process))
        result["minutes"] = (time.monotonic() - began) / 60
        for _ in range(120):
            result["after"] = (await client.get("/health")).json()
            if result["after"]["waiting"] == result["after"]["running"] == 0:
                break
            await asyncio.sleep(0.5)
        result["killed"] = await kill(client, process, bodies, args.killed)
    return result, bodies, expected


async def kill(client, process, bodies, count):
    """What the clients of `count` requests see when the process is killed; by kind."""

    async def one(body):
        try:
            status, *_ = await ask(client, body, "default")
        except httpx2.HTTPError as error:
            return type(error).__name__
        return str(status)

    tasks = [asyncio.create_task(one(bodies[number % len(bodies)])) for number in range(count)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    os.kill(process.pid, signal.SIGKILL)
    seen = await asyncio.gather(*tasks)
    return {kind: seen.count(kind) for kind in sorted(set(seen))}


async def after_restart(address, bodies, expected):
    """How many answers of a new server differ."""
    async with httpx2.AsyncClient(base_url=address, timeout=900) as client:
        found = await answers(client, bodies)
    return sum(one != two for policy in expected for one, two in zip(found[policy], expected[policy], strict=True))


def growth(megabytes):
    """Mean of the last third less mean of the second, in megabytes."""
    second, last = np.array_split(np.array(megabytes), 3)[1:]
    return float(last.mean() - second.mean()) if len(second) and len(last) else 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lookaway-mini")
    parser.add_argument("--policy", help="folder or YAML file; default: the default model's own gates")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--requests", type=int, default=24, help="of each round")
    parser.add_argument("--text-only", type=float, default=0.25, help="share of requests without a picture")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4, 16], help="longest answers, drawn from these")
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--max-waiting", type=int, default=256)
    parser.add_argument("--killed", type=int, default=16, help="requests that are under way when the server is killed")
    parser.add_argument("--most-growth", type=float, default=20, help="megabytes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/serving-endurance.json"))
    args = parser.parse_args()
    process, address = start(args)
    try:
        result, bodies, expected = asyncio.run(endure(args, process, address))
    finally:
        process.kill()
        errors = process.communicate(timeout=120)[1]
    process, address = start(args)
    try:
        result["wrong_after_restart"] = asyncio.run(
            after_restart(address, bodies[:6], {k: v[:6] for k, v in expected.items()})
        )
    finally:
        process.terminate()
        process.communicate(timeout=120)
    result["growth_mb"] = growth(result["memory_mb"])
    result["tracebacks"] = errors.count("Traceback")
    result["arguments"] = {key: str(value) for key, value in vars(args).items()}
    result |= machine("cpu")
    write_json(args.out, result)
    print(json.dumps(result, indent=1))
    bad = result["wrong"] or result["wrong_after_restart"] or result["tracebacks"] or result["after"]["running"]
    raise SystemExit(1 if bad or result["growth_mb"] > args.most_growth else 0)


if __name__ == "__main__":
    main()
