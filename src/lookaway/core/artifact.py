"""A policy on disk: `config.json` + `model.safetensors` + a model card. No pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from .base_model import BaseModel
from .errors import DataError, SettingsError
from .files import atomic_path, write_json, write_text
from .hub import may_be_hub_id
from .settings import check_settings

__all__ = ["SavedPolicy", "push_policy", "read_policy", "read_policy_yaml", "save_policy"]

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
CERTIFICATE = "certificate.json"
"""What `lookaway fit` has shown of the policy in this folder (`core/certificate.py`)."""


class Savable(Protocol):
    """What can be pushed to the hub: anything that writes itself into a folder."""

    def save_pretrained(self, directory: str | Path) -> Path: ...


@dataclass(frozen=True)
class SavedPolicy:
    """What was read from a folder."""

    name: str
    config: Any
    """As it stands in the file: a mapping, where nobody wrote anything else (`policies.building` looks)."""
    tensors: dict[str, Tensor]
    base: BaseModel | None
    version: str
    where: str = ""
    """The file that says so, for messages."""


def save_policy(
    directory: Path, name: str, config: dict[str, Any], tensors: dict[str, Tensor], base: BaseModel | None, card: str
) -> Path:
    """Write the folder's files, each atomically, the config last; other files in the folder are left alone."""
    from safetensors.torch import save_file

    from .. import __version__

    document = {
        "policy": name,
        "config": config,
        "base_model": asdict(base) if base else None,
        "library_name": "lookaway",
        "library_version": __version__,
    }
    if tensors:
        with atomic_path(directory / WEIGHTS) as temporary:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary)
    else:
        (directory / WEIGHTS).unlink(missing_ok=True)
    write_text(directory / CARD, _card(document, card))
    write_json(directory / CONFIG, document)
    return directory


def read_policy(path_or_hub_id: str | Path) -> SavedPolicy:
    """Read a folder, or fetch a hub id (`user/name`) and read it.

    Raises:
        DataError: the folder does not exist, or a file in it is missing or damaged; the text names the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    directory = Path(path_or_hub_id)
    if not directory.is_dir():
        directory = _download(str(path_or_hub_id))
    try:
        document = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        name, config = document["policy"], document["config"]
        base = document.get("base_model")
        known = {field.name for field in fields(BaseModel)}
        of_model = {key: value for key, value in base.items() if key in known} if base else {}
        base_model = BaseModel(**of_model) if base else None
    except FileNotFoundError:
        raise DataError(f"{directory} holds no {CONFIG}: it is not a saved lookaway policy.") from None
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise DataError(f"{directory / CONFIG} is not a saved lookaway policy ({error!r}). Save it again.") from error
    try:
        check_settings(BaseModel, of_model, complete=False)
    except SettingsError as error:
        raise DataError(f"{directory / CONFIG}: base_model: {error}") from error
    tensors: dict[str, Tensor] = {}
    if (directory / WEIGHTS).exists():
        try:
            tensors = load_file(directory / WEIGHTS)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{directory / WEIGHTS} is damaged ({error}). Copy or train it again.") from error
    return SavedPolicy(
        name, config, tensors, base_model, document.get("library_version", "unknown"), str(directory / CONFIG)
    )


def read_policy_yaml(path: Path) -> SavedPolicy:
    """Read a policy without weights from a YAML file: `policy: NAME` and `config: {settings}`.

    Raises:
        DataError: the file is missing, no YAML, or has other keys.
    """
    import yaml

    from .. import __version__

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"Cannot read the policy {path}: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(document, dict) or set(document) - {"policy", "config"} or not document.get("policy"):
        raise DataError(
            f"{path} is no policy: it must have the key 'policy' (a name), and may have 'config' (settings)."
        )
    return SavedPolicy(document["policy"], document.get("config"), {}, None, __version__, str(path))


def push_policy(policy: Savable, repo_id: str, **kwargs: Any) -> str:
    """Save to a temporary folder and upload it; returns the commit's address."""
    import tempfile

    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo_id, exist_ok=True, **kwargs)
    with tempfile.TemporaryDirectory() as folder:
        saved = policy.save_pretrained(Path(folder) / "policy")
        return str(api.upload_folder(repo_id=repo_id, folder_path=str(saved), commit_message="Upload lookaway policy"))


NO_POLICY = (
    "Give the folder or YAML file of a policy: `lookaway fit` and `lookaway train` save one, `lookaway policies` lists "
    "the methods that need none of that."
)


def _download(repo_id: str) -> Path:
    """What the hub has under 'user/name'; any other name can only be a folder, and it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if not may_be_hub_id(repo_id):
        raise DataError(f"There is no policy at {repo_id}. {NO_POLICY}")
    try:
        return Path(snapshot_download(repo_id, allow_patterns=[CONFIG, WEIGHTS, CARD, CERTIFICATE]))
    except HFValidationError:
        raise DataError(f"There is no policy at {repo_id}, which is no hub id either. {NO_POLICY}") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = f"the hub does not give it ({status})" if status else "the hub cannot be reached"
        raise DataError(f"There is no folder {repo_id} here, and {why}. {NO_POLICY}") from error


def _card(document: dict[str, Any], body: str) -> str:
    base = document["base_model"] or {}
    front = ["---", "library_name: lookaway", "tags: [lookaway, visual-token-exit]"]
    if "/" in base.get("id", ""):
        front.append(f"base_model: {base['id']}")
    title = f"# {document['policy']} for {base.get('id') or base.get('architecture') or 'any model'}"
    usage = (
        '```python\nimport lookaway as la\n\nwith la.attach(model, la.load("this-folder")) as run:\n'
        "    out = model.generate(**inputs)\nprint(run.trace.exit_layers)\n```"
    )
    return "\n".join([*front, "---", "", title, "", body, "", "## Use", "", usage, ""])
