"""These tests need lmms-eval and its environment: `make test-lmms`, which fails where they cannot run."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("lmms_eval") else ["test_*.py"]
