"""Checkpoints from the Hugging Face hub; the only file that talks to it.

Tokens, cache folder, endpoint and offline mode are huggingface_hub's own: ``HF_TOKEN`` or
``hf auth login``, ``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE=1``.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import huggingface_hub
from huggingface_hub import constants, errors

from heliodor.errors import HubError

PATTERNS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
)
"""What is fetched of a repository; pickled and foreign weights stay where they are."""

_TRANSPORT = cast("type[Exception]", errors.HfHubHTTPError.__bases__[0])
"""Root of the HTTP library's own errors: which library that is differs between releases."""


def resolve(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache: str | Path | None = None,
    offline: bool = False,
) -> Path:
    """Fetch a repository's model files, or find them in the cache.

    Args:
        repo_id: such as ``google/paligemma-3b-mix-224``.
        revision: branch, tag or commit; the default branch if None.
        token: an access token; huggingface_hub finds its own if None.
        cache: folder of downloads; huggingface_hub's own if None.
        offline: never touch the network.

    Returns:
        The folder that holds the files.

    Raises:
        HubError: gated, unknown id or revision, no network, or a full disk; the message says what
            to do.
    """
    with _explained(repo_id, revision):
        folder = huggingface_hub.snapshot_download(  # pyright: ignore[reportUnknownMemberType]
            repo_id,
            revision=revision,
            token=token,
            cache_dir=cache,
            local_files_only=offline,
            allow_patterns=list(PATTERNS),
        )
    return Path(folder)


@contextmanager
def _explained(repo_id: str, revision: str | None) -> Generator[None]:
    """The library's many exceptions as one, with advice. Order matters: some derive from others."""
    page = f"{constants.ENDPOINT}/{repo_id}"
    try:
        yield
    except errors.HFValidationError as error:
        raise HubError(f"{repo_id!r} is no hub id; expected owner/name ({error})") from error
    except errors.GatedRepoError as error:
        raise HubError(
            f"{repo_id} is gated: accept its licence at {page}, then give an access token of that "
            "account (run `hf auth login`, or set HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{page} does not exist, or is private and the access token (HF_TOKEN, "
            "`hf auth login`) does not open it: check the id"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{repo_id} has no revision {revision!r}: see its branches at {page}/tree/main"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise HubError(
            f"{repo_id} is not in the cache and the hub cannot be reached (offline mode, or no "
            "network): connect once to download it, or give a folder"
        ) from error
    except errors.HfHubHTTPError as error:
        raise HubError(f"the hub refused {repo_id}: {_first_line(error)}") from error
    except (_TRANSPORT, OSError) as error:
        raise HubError(f"downloading {repo_id} failed: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
