"""What tests of the command line share."""

import pytest


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `lookaway ...` in this process: (exit status, stdout, stderr)."""
    import sys

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
