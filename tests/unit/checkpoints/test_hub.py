"""The hub behind a fake: what is asked of the library, and its errors turned into advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors

from heliodor.checkpoints import TransformersCheckpoint, hub, locate, open_checkpoint
from heliodor.cli.inspect import describe
from heliodor.cli.main import main
from heliodor.errors import ConfigError, HubError, InputError

httpx = pytest.importorskip(errors.HfHubHTTPError.__bases__[0].__module__.split(".")[0])
NAME = "google/paligemma-3b-mix-224"


def answered(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    """The library's own exception, as it makes it from an answer of the server."""
    request = httpx.Request("GET", "https://hub.invalid/api")
    return kind("the server said no", response=httpx.Response(status, request=request))


def fake(monkeypatch: pytest.MonkeyPatch, outcome: Exception | str) -> dict[str, Any]:
    """Replace the download by one that fails or succeeds as told -> the arguments it was given."""
    given: dict[str, Any] = {}

    def snapshot_download(repo_id: str, **options: Any) -> str:
        given.update(options, repo_id=repo_id)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return given


def test_only_the_files_of_a_model_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = fake(monkeypatch, str(tmp_path))
    folder = hub.resolve(NAME, revision="bfloat16", token="t", cache=tmp_path / "c", offline=True)
    assert folder == tmp_path
    patterns = given.pop("allow_patterns")
    assert given == {
        "repo_id": NAME,
        "revision": "bfloat16",
        "token": "t",
        "cache_dir": tmp_path / "c",
        "local_files_only": True,
    }
    published = [
        *("config.json", "generation_config.json", "preprocessor_config.json"),
        *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
        *("added_tokens.json", "model.safetensors.index.json"),
        *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
    ]
    others = [
        "README.md",
        ".gitattributes",
        "pytorch_model.bin",
        "adapter_model.safetensors",
        "a.gguf",
    ]
    kept = list(
        huggingface_hub.utils.filter_repo_objects([*published, *others], allow_patterns=patterns)
    )
    assert kept == published


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (
            answered(errors.GatedRepoError, 403),
            rf"is gated: accept its licence at https://\S+/{NAME}, .*hf auth login.*HF_TOKEN",
        ),
        (answered(errors.RepositoryNotFoundError, 401), r"does not exist, or is private.*HF_TOKEN"),
        (answered(errors.RevisionNotFoundError, 404), "no revision 'v9'.*tree/main"),
        (answered(errors.HfHubHTTPError, 500), "the hub refused .*the server said no"),
        (errors.LocalEntryNotFoundError("no"), "not in the cache and the hub cannot be reached"),
        (errors.OfflineModeIsEnabled("no"), "not in the cache and the hub cannot be reached"),
        (errors.HFValidationError("bad id"), "is no hub id"),
        (httpx.ConnectError("name not known"), "downloading .* failed: name not known"),
        (httpx.ReadTimeout("slow\nvery"), "downloading .* failed: slow$"),
        (OSError(28, "No space left on device"), "failed: .*No space left on device"),
    ],
)
def test_each_failure_is_one_hub_error_with_advice(
    monkeypatch: pytest.MonkeyPatch, outcome: Exception, message: str
) -> None:
    fake(monkeypatch, outcome)
    with pytest.raises(HubError, match=message):
        hub.resolve(NAME, revision="v9")


def test_the_real_library_offline_and_without_cache_is_a_hub_error(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="not in the cache"):
        hub.resolve(NAME, cache=tmp_path)


def test_the_real_library_refuses_a_bad_id(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="is no hub id"):
        hub.resolve("a..b/c--d", cache=tmp_path)


def paligemma_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "paligemma"}')
    return folder


def test_a_folder_counts_before_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(monkeypatch, AssertionError("the hub was asked"))
    paligemma_folder(tmp_path / "google" / "model")
    monkeypatch.chdir(tmp_path)
    found = open_checkpoint("google/model")
    assert isinstance(found, TransformersCheckpoint)
    assert found.folder == Path("google/model")
    with pytest.raises(InputError, match="is a folder, which has no revision 'v1'"):
        open_checkpoint("google/model", revision="v1")


def test_an_id_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = fake(monkeypatch, str(paligemma_folder(tmp_path)))
    found = open_checkpoint(NAME, revision="float16")
    assert isinstance(found, TransformersCheckpoint)
    assert (found.folder, found.source) == (tmp_path, NAME)
    assert (given["repo_id"], given["revision"]) == (NAME, "float16")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pt_224.npz", r"pt_224\.npz does not exist; expected a folder"),
        ("no-such-folder", "does not exist; expected a folder .* or a hub id"),
        ("a/b/c", "does not exist"),
        ("./a/b", "does not exist"),
        ("../b", "does not exist"),
        ("", "name is 0 letters long"),
        ("x" * 5000, "name is 5000 letters long"),
        (Path("google/absent"), "does not exist"),
    ],
)
def test_what_is_neither_folder_nor_id_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str | Path, message: str
) -> None:
    fake(monkeypatch, AssertionError("the hub was asked"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(source)


def listed(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: names)


def test_of_a_repository_of_npz_files_the_only_one_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = fake(monkeypatch, str(tmp_path))
    listed(monkeypatch, ["README.md", "pt_224.bf16.npz", "vae-oid.npz"])
    (tmp_path / "pt_224.bf16.npz").write_bytes(b"")
    assert hub.resolve_model(f"{NAME}-jax") == tmp_path / "pt_224.bf16.npz"
    kept = huggingface_hub.utils.filter_repo_objects(
        ["pt_224.bf16.npz", "pt_224.npz", "vae-oid.npz", "tokenizer.model"],
        allow_patterns=given["allow_patterns"],
    )
    assert list(kept) == ["pt_224.bf16.npz", "tokenizer.model"]


def test_pieces_are_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = fake(monkeypatch, str(tmp_path))
    listed(monkeypatch, [f"pt_28b.npz.part{i}" for i in range(3)])
    (tmp_path / "pt_28b.npz.part0").write_bytes(b"")
    assert hub.resolve_model(f"{NAME}-jax") == tmp_path / "pt_28b.npz"
    assert "pt_28b.npz.part*" in given["allow_patterns"]


def test_of_several_npz_files_one_must_be_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = fake(monkeypatch, str(tmp_path))
    listed(monkeypatch, ["a.f16.npz", "a.npz", "b.npz.part1", "b.npz.part2"])
    with pytest.raises(ConfigError, match=rf"holds 3 npz files .*say which, as in {NAME}/a\.f16"):
        hub.resolve_model(NAME)
    assert given == {}
    (tmp_path / "a.npz").write_bytes(b"")
    assert hub.resolve_model(NAME, file="a.npz") == tmp_path / "a.npz"
    assert "a.f16.npz" not in given["allow_patterns"]
    with pytest.raises(ConfigError, match=r"has no file c\.npz: see https://"):
        hub.resolve_model(NAME, file="c.npz")


def test_an_id_with_a_file_names_that_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def resolve_model(*given: Any, **more: Any) -> Path:
        asked.append((given, more))
        return tmp_path

    monkeypatch.setattr(hub, "resolve_model", resolve_model)
    assert locate(f"{NAME}-jax/pt.npz", revision="v1") == tmp_path
    assert asked == [((f"{NAME}-jax",), {"revision": "v1", "file": "pt.npz"})]
    with pytest.raises(ConfigError, match="does not exist"):
        locate(f"{NAME}/config.json")


def test_an_adapter_is_two_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = fake(monkeypatch, str(tmp_path))
    assert locate("somebody/lora", adapter=True) == tmp_path
    assert given["allow_patterns"] == ["adapter_config.json", "adapter_model.safetensors"]


NPZ = ["a.f16.npz", "a.npz", "b.npz.part1", "b.npz.part2", "vae-oid.npz", "m.heliodor.safetensors"]


def test_inspect_lists_the_files_of_a_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(monkeypatch, str(tmp_path))
    listed(monkeypatch, [*NPZ, "README.md"])
    facts = describe(NAME)
    assert facts["on the hub"] == ["a.f16.npz", "a.npz", "b.npz", "m.heliodor.safetensors"]
    assert facts["odd"] == [f"name one of them to load it, as in {NAME}/a.npz"]
    assert main(["inspect", NAME]) == 0
    assert "on the hub         b.npz\n" in capsys.readouterr().out


def test_inspect_of_a_file_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(monkeypatch, str(tmp_path))
    listed(monkeypatch, NPZ)
    facts = describe(f"{NAME}/b.npz")
    assert (facts["on the hub"], facts["complete"]) == (["b.npz"], None)
    assert "has not been fetched" in facts["odd"][0]
    with pytest.raises(ConfigError, match=r"has no file c\.npz: it has a\.f16\.npz, a\.npz, b"):
        describe(f"{NAME}/c.npz")
    arrays: dict[str, Any] = {"params/llm/final_norm/scale": np.zeros(4, np.float32)}
    np.savez(tmp_path / "a.npz", **arrays)
    facts = describe(f"{NAME}/a.npz")
    assert (facts["family"], facts["files"], facts["complete"]) == ("PaliGemma", ["a.npz"], False)


def test_inspect_of_a_folder_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(monkeypatch, str(paligemma_folder(tmp_path)))
    listed(monkeypatch, ["config.json", "model.safetensors"])
    facts = describe(NAME)
    assert facts["odd"][-1] == "the weights are on the hub and have not been fetched"
    assert (facts["complete"], facts["missing"]) == (None, [])


def test_inspect_of_a_repository_of_something_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake(monkeypatch, str(tmp_path))
    listed(monkeypatch, ["README.md", "vae-oid.npz"])
    with pytest.raises(ConfigError, match=r"has no config\.json and no \.npz"):
        describe(NAME)
