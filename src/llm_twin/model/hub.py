"""Pushing a dataset's folder to the Hugging Face hub, or a server that speaks its API."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError, RemoteError
from llm_twin.model.dataset_files import check

if TYPE_CHECKING:
    from pathlib import Path

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HINTS = {
    401: "Set HF_TOKEN to a token that it accepts, with the right to write",
    403: "Set HF_TOKEN to a token that may write there",
    404: "Name a repository that the token may write to, like data.hub: author/twin",
}


def push(
    folder: Path, repository: str, token: str, endpoint: str = "", private: bool = True
) -> dict[str, Any]:
    """Upload a folder that ``dataset_files.write`` made; what is there already is not sent again.

    Args:
        folder: of the dataset.
        repository: ``author/name``; made if it is not there.
        token: with the right to write.
        endpoint: of the hub; empty: what HF_ENDPOINT says, or huggingface.co.
        private: of a repository that is made now; one that is there stays as it is.

    Returns:
        ``repository``, ``url`` of it, ``commit`` and ``digest`` of the dataset.

    Raises:
        NotReadyError: the folder holds no whole dataset.
        ConfigError: the name or the token cannot be used.
        RemoteError: the hub cannot be reached, or fails.

    """
    manifest = check(folder)
    check_access(repository, token)
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint or None, token=token.strip())
    try:
        url = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            repo_type="dataset",
            commit_message=f"Dataset {manifest['digest']}",
            delete_patterns="*.jsonl",
        )
    except Exception as error:
        raise _failure(error, repository, str(api.endpoint), token.strip()) from None
    return {
        "repository": repository,
        "url": str(url),
        "commit": str(commit.oid),
        "digest": manifest["digest"],
    }


def check_access(repository: str, token: str) -> None:
    """Look at the repository's name and the token, without asking the hub.

    Raises:
        ConfigError: they cannot be used.

    """
    if not _NAME.fullmatch(repository):
        what = "a repository on the hub is named author/name"
        raise ConfigError(what, repr(repository), "Set data.hub in the profile")
    if not token.strip():
        raise ConfigError("the hub asks for a token", "HF_TOKEN", "Set it, with the right to write")


def _failure(error: Exception, repository: str, endpoint: str, token: str) -> Exception:
    """What to say of the hub's client's own errors; anything else is a fault of this program."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    where = f"{endpoint}/datasets/{repository}"
    if isinstance(error, HFValidationError):
        return ConfigError("the hub refuses the repository's name", where, str(error))
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 0
        if status in _HINTS:
            return ConfigError(f"the hub refused (HTTP {status})", where, _HINTS[status])
        said = (error.server_message or "").replace(token, "…")
        return RemoteError(f"the hub failed (HTTP {status}) {said}".rstrip(), where, "Try again")
    # By name: the hub's client uses httpx2 where that is installed, and httpx elsewhere.
    lost = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
    if lost or isinstance(error, OSError):
        what = f"the hub cannot be reached ({type(error).__name__})"
        return RemoteError(what, where, "Try again with a network, or leave out --push")
    if isinstance(error, KeyError | ValueError | TypeError | AttributeError):
        what = f"the hub did not answer as the hub does ({type(error).__name__})"
        return RemoteError(what, where, "Look at HF_ENDPOINT")
    return error
