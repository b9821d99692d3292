"""Checkpoints from the Hugging Face hub; the only file that talks to it.

Tokens, cache folder, endpoint, offline mode and progress bars are huggingface_hub's own:
``HF_TOKEN`` or ``hf auth login``, ``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE=1``,
``HF_HUB_DISABLE_PROGRESS_BARS=1``. So is going on with a download that broke off.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import huggingface_hub
from huggingface_hub import constants, errors

from heliodor.checkpoints.recognise import is_npz
from heliodor.errors import ConfigError, HubError

PATTERNS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "maskcodec.npz",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "*.heliodor.safetensors",
)
"""What is fetched of a model's repository; pickled and foreign weights stay where they are."""

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""What is fetched of an adapter's repository."""

SMALL = tuple(name for name in PATTERNS if name.endswith(".json")) + ADAPTER
"""What says what a repository holds; an adapter's weights are small themselves."""

_BESIDE_NPZ = ("tokenizer.json", "tokenizer.model", "paligemma_tokenizer.model", "spiece.model")
_CODECS = ("maskcodec.npz", "vae-oid.npz")
_NATIVE = ".heliodor.safetensors"
_LISTED = 8

_TRANSPORT = cast("type[Exception]", errors.HfHubHTTPError.__bases__[0])
"""Root of the HTTP library's own errors: which library that is differs between releases."""


def resolve_model(
    repo_id: str,
    *,
    revision: str | None = None,
    file: str | None = None,
    token: str | None = None,
    cache: str | Path | None = None,
) -> Path:
    """Fetch a model: a repository in transformers layout, or one file of a repository of files.

    Repositories whose names end in ``-jax`` hold big_vision's npz files, one for each type. Of
    those only the one that is asked for is fetched, or the only one there is.

    Args:
        repo_id: such as ``google/paligemma-3b-mix-224``.
        revision: branch, tag or commit; the default branch if None.
        file: the npz or native file that is wanted; its ``.part`` pieces are found too.
        token: see :func:`resolve`.
        cache: see :func:`resolve`.

    Returns:
        The folder, or the file in it. Of a file in pieces, where the joined one would lie.

    Raises:
        ConfigError: several files to choose from, or none.
        HubError: the download failed.
    """
    if file is None:
        names = _names(repo_id, revision=revision, token=token, cache=cache)
        found = _npz_in(names)
        if "config.json" in names or not found:
            return resolve(repo_id, revision=revision, token=token, cache=cache)
        if len(found) > 1:
            listed = ", ".join(sorted(found)[:_LISTED])
            raise ConfigError(
                f"{repo_id} holds {len(found)} npz files ({listed}): say which, as in "
                f"{repo_id}/{min(found)}"
            )
        file = found.pop()
    patterns = (file, f"{file}.part*", *_BESIDE_NPZ)
    folder = resolve(repo_id, revision=revision, token=token, cache=cache, patterns=patterns)
    place = folder / file
    if not place.exists() and not list(folder.glob(f"{file}.part*")):
        raise ConfigError(f"{repo_id} has no file {file}: see {_page(repo_id)}/tree/main")
    return place


def single_files(repo_id: str, *, revision: str | None = None) -> list[str]:
    """The files of a repository that are a model each: npz, in pieces or not, and native ones.

    Nothing is fetched.

    Raises:
        HubError: the hub says no.
    """
    names = _names(repo_id, revision=revision, token=None, cache=None)
    return sorted(_npz_in(names) | {name for name in names if name.endswith(_NATIVE)})


def cached_file(repo_id: str, file: str, *, revision: str | None = None) -> Path | None:
    """One of them where it lies in the cache; None where it does not."""
    try:
        folder = resolve(repo_id, revision=revision, offline=True, patterns=(file, f"{file}.part*"))
    except HubError:
        return None
    return folder / file if list(folder.glob(f"{file}*")) else None


def _npz_in(names: Sequence[str]) -> set[str]:
    """The npz files among some names, pieces as one, without mask codecs."""
    return {name.partition(".part")[0] for name in names if is_npz(name)} - {*_CODECS}


def resolve(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache: str | Path | None = None,
    offline: bool = False,
    patterns: Sequence[str] = PATTERNS,
) -> Path:
    """Fetch some files of a repository, or find them in the cache.

    Args:
        repo_id: such as ``google/paligemma-3b-mix-224``.
        revision: branch, tag or commit; the default branch if None.
        token: an access token; huggingface_hub finds its own if None.
        cache: folder of downloads; huggingface_hub's own if None.
        offline: never touch the network.
        patterns: which files.

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
            allow_patterns=list(patterns),
        )
    return Path(folder)


def _names(
    repo_id: str, *, revision: str | None, token: str | None, cache: str | Path | None
) -> list[str]:
    """The files of a repository; of what is in the cache where the hub cannot be reached."""
    with _explained(repo_id, revision):
        try:
            return list(huggingface_hub.list_repo_files(repo_id, revision=revision, token=token))
        except errors.HfHubHTTPError:
            raise  # the hub has answered
        except (_TRANSPORT, errors.OfflineModeIsEnabled):
            pass  # it cannot be reached: the cache may hold what is wanted
    folder = resolve(repo_id, revision=revision, token=token, cache=cache, offline=True)
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _page(repo_id: str) -> str:
    return f"{constants.ENDPOINT}/{repo_id}"


@contextmanager
def _explained(repo_id: str, revision: str | None) -> Generator[None]:
    """The library's many exceptions as one, with advice. Order matters: some derive from others."""
    page = _page(repo_id)
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
