"""These tests need lmms-eval and its environment: `make test-lmms`, which fails where they cannot run."""

import importlib.util
import sys

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("lmms_eval") else ["test_*.py"]


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `lookaway ...` in this process: (exit status, stdout, stderr)."""
    from lookaway.cli import app

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lookaway", *map(str, arguments)])
        try:
            app.main()
            status = 0
        except SystemExit as stopped:
            status = stopped.code or 0
        out = capsys.readouterr()
        return status, out.out, out.err

    return run
