"""`lookaway serve`: an OpenAI-compatible server for one model and several policies, and a page to try them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .model_options import PublishedModel

if TYPE_CHECKING:
    from ..core.decision import Policy


@dataclass(frozen=True, kw_only=True)
class Options(PublishedModel):
    """Serve a model over HTTP, as the OpenAI API does (chat completions with pictures), and a page to try it at '/'."""

    model: str = "lookaway-mini"
    """Model folder or hub id; lookaway-mini and lookaway-mini-plain are the default models."""
    policy: tuple[str, ...] = ()
    """A policy to load, as NAME=FOLDER (or a hub id, a YAML file, or several joined by commas); give it once for each.
    Requests choose by name. Without a NAME it is called 'default'. Default models bring their own gates."""
    default_policy: str | None = None
    """Name of the policy of requests that choose none, or 'off'; the first one unless given."""
    host: str = "127.0.0.1"
    """Address to listen at. 0.0.0.0 lets other machines in: then give --api-keys, and put TLS in front."""
    port: int = 8000
    """Port to listen at."""
    api_keys: Path | None = None
    """File with one API key a line; requests under /v1 must carry one of them. LOOKAWAY_API_KEYS, keys joined by
    commas, does the same."""
    allow_url: bool = False
    """Fetch pictures that requests give as http(s) addresses, from public machines only. Else they are refused."""
    playground: bool = True
    """Serve the page at '/'."""
    max_pictures: int = 8
    """Pictures in one request."""
    max_pixels: int = 20_000_000
    """Pixels of one picture."""
    max_body_mb: int = 32
    """Megabytes of one request's body."""
    max_prompt_tokens: int = 8192
    """Tokens of a prompt, the visual ones included."""
    max_answer_tokens: int = 1024
    """Largest max_tokens that a request may ask for."""
    max_batch: int = 8
    """Answers that are decoded together."""
    max_waiting: int = 32
    """Requests that may wait; more are answered with 429 and Retry-After."""
    timeout: float = 120.0
    """Deadline of a request in seconds, from its arrival to the end of its answer."""
    ray: bool = False
    """Serve with Ray Serve: on the cluster of RAY_ADDRESS, or on this machine alone. Each replica has a model of its
    own, on a GPU of its own where there are any."""
    replicas: str = "1"
    """With --ray: how many replicas, as 2, or as 1-4 for as many as the load asks for."""
    allow_other_model: bool = False
    """Use policies although they were made for another model (other weights)."""
    device: str | None = None
    """cpu, cuda, cuda:1, ...; default: a GPU if there is one."""
    dtype: str | None = None
    """float32, bfloat16, float16 or auto; default: float32 on a CPU, the checkpoint's own elsewhere."""


def run(options: Options) -> dict[str, Any]:
    from .common import tell

    check_installed(options.ray)
    from ..serving.openai.running import run_server

    keys = read_keys(options.api_keys, os.environ.get("LOOKAWAY_API_KEYS", ""))
    policies = list(named_policies(options))  # what cannot be read shows before a model is loaded
    limits = limits_of(options)
    shown = f"[{options.host}]" if ":" in options.host else options.host
    if not keys and options.host not in ("127.0.0.1", "::1", "localhost"):
        tell("note: other machines may reach this server, and it asks for no API key (--api-keys FILE).")
    where = f"policies: {', '.join([*policies, 'off'])}; serving http://{shown}:{options.port} (Ctrl-C ends it)"
    if options.ray:
        from ..serving.ray.replicas import Replicas, serve_on_ray

        replicas = Replicas.parse(options.replicas)
        check_for_replicas(options)
        tell(f"starting Ray with {options.replicas} replicas of {options.model} ...")
        make = partial(application, options, tuple(keys))
        serve_on_ray(make, replicas, limits, options.host, options.port, ready=lambda: tell(where))
    else:
        tell(f"loading {options.model} ...")
        app = application(options, tuple(keys))
        tell(where)
        run_server(app, options.host, options.port, limits)
    tell("stopped.")
    return {"model": options.model, "policies": policies}


def application(options: Options, keys: tuple[str, ...]) -> Any:
    """The FastAPI application, with the model loaded in this process."""
    from ..models.loading import load_model
    from ..serving.openai.app import make_app

    model, processor = load_model(options.model, device=options.device, dtype=options.dtype, **options.published)
    return make_app(
        model, processor, named_policies(options), Path(options.model).name, options.default_policy,
        limits_of(options), keys, options.playground, options.allow_other_model,
    )  # fmt: skip


def limits_of(options: Options) -> Any:
    """What clients may ask."""
    from ..serving.openai.limits import Limits

    return Limits(
        max_pictures=options.max_pictures, max_pixels=options.max_pixels, allow_url=options.allow_url,
        max_body_bytes=options.max_body_mb * 1_000_000, max_prompt_tokens=options.max_prompt_tokens,
        max_answer_tokens=options.max_answer_tokens, max_batch=options.max_batch, max_waiting=options.max_waiting,
        timeout_seconds=options.timeout,
        default_answer_tokens=min(Limits.default_answer_tokens, options.max_answer_tokens),
    )  # fmt: skip


def check_installed(with_ray: bool) -> None:
    """Refuse to go on without the packages that the server needs.

    Raises:
        MissingDependency: naming the extra that brings them.
    """
    from importlib import import_module

    from ..core.errors import MissingDependency

    packages = {"fastapi": "serve", "prometheus_client": "serve", "uvicorn": "serve"}
    for package, extra in {**packages, **({"ray.serve": "ray"} if with_ray else {})}.items():
        try:
            import_module(package)
        except ImportError as error:
            raise MissingDependency.of(error.name or package, extra) from None


def check_for_replicas(options: Options) -> None:
    """Refuse what would mean something else in the process of a replica.

    Raises:
        SettingsError: one numbered GPU for all replicas.
    """
    from ..core.errors import SettingsError

    if options.device and ":" in options.device:
        raise SettingsError(
            f"--device {options.device} names one GPU, and Ray gives each replica its own. Use --device cuda, and "
            "CUDA_VISIBLE_DEVICES to leave some out."
        )


def read_keys(file: Path | None, more: str) -> list[str]:
    """The API keys of a file, one a line, and those of a text, joined by commas.

    Raises:
        DataError: the file cannot be read, or holds no key.
    """
    from ..core.errors import DataError

    keys = [key.strip() for key in more.split(",") if key.strip()]
    if file is None:
        return keys
    try:
        found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the API keys in {file}: {error}.") from error
    if not found:
        raise DataError(
            f"{file} holds no API key, so nobody could be let in. Write one a line, or leave the option out."
        )
    return keys + found


def named_policies(options: Options) -> dict[str, Policy]:
    """The policies of --policy, by name; a default model's own gates where none was given.

    Raises:
        DataError: two of them have the same name, or a policy cannot be read.
    """
    from ..core.errors import DataError
    from .common import choose_policy, load_policies

    if not options.policy:
        if options.model.startswith("lookaway-mini"):
            return {"default": choose_policy(options.model, None, None)}
        return {}
    found: dict[str, Policy] = {}
    for entry in options.policy:
        name, equals, source = entry.partition("=")
        if not equals or Path(entry).exists():
            name, source = "default", entry
        if name in found:
            raise DataError(f"Two policies are called {name!r}. Name them: --policy {name}=... --policy other=...")
        found[name] = load_policies(source, options.allow_other_model)
    return found
