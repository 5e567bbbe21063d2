"""Promises of the hub: files are verified, cached files need no network, and an error names what
was needed and what to do."""

import json
import shutil

import httpx2
import pytest
from huggingface_hub import errors

from ablation.data import hub
from ablation.data.benchmarks import read_documents, split_files, training_files
from ablation.data.hub import HubError
from ablation.model.checkpoints import load
from tests.support.checkpoints import quantize, write_multimodal
from tests.support.fake_hub import FakeHub

SMALL, LARGE = b'{"a": 1}', b"\x00weights" * 50


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake.snapshot_download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(fake.cache))
    return fake


def some(files):
    """All files, of which there must be one."""
    if not files:
        raise HubError("nothing")
    return dict(files)


def raising(error):
    def refuse(*args, **kwargs):
        raise error

    return refuse


# ---- listings and files --------------------------------------------------------------------------


def test_the_hub_and_its_cache_list_the_same(fake, monkeypatch):
    commit = fake.add("o/m", {"config.json": SMALL, "model.safetensors": LARGE})
    online = hub.list_files("o/m", "model", commit, "all", some)
    assert online["config.json"].keys() == {"bytes", "git_sha1"}
    assert online["model.safetensors"].keys() == {"bytes", "sha256"}
    monkeypatch.setattr(fake, "list_repo_tree", raising(errors.OfflineModeIsEnabled("off")))
    assert hub.list_files("o/m", "model", commit, "all", some) == online


def test_an_incomplete_cache_is_not_used_as_the_whole_data_set(fake, monkeypatch, tmp_path):
    """The hub may have what the cache lacks, so the error is that the hub cannot be reached."""
    files = {"data/train-0.parquet": LARGE, "data/validation-0.parquet": LARGE}
    commit = fake.add("Rowan/hellaswag", files, "dataset", cached=False)
    fake.download("Rowan/hellaswag", "dataset", commit, ["data/train-0.parquet"])
    parts = [("", "validation")]
    monkeypatch.setattr(fake, "list_repo_tree", raising(errors.OfflineModeIsEnabled("off")))
    with pytest.raises(HubError, match="cannot be reached.*Needed: validation split"):
        hub.copy_splits(tmp_path, "Rowan/hellaswag", commit, parts)
    fake.download("Rowan/hellaswag", "dataset", commit, ["data/validation-0.parquet"])
    copies = hub.copy_splits(tmp_path, "Rowan/hellaswag", commit, parts)
    assert copies == [tmp_path / "Rowan/hellaswag/data/validation-0.parquet"]
    assert copies[0].read_bytes() == LARGE


def test_a_split_that_no_file_has_is_refused_with_the_files_that_exist(fake, tmp_path):
    commit = fake.add("o/d", {"script.py": SMALL, "data/train.parquet": LARGE}, "dataset")
    with pytest.raises(HubError, match=r"validation split.*script\.py.*refs/convert/parquet"):
        hub.copy_splits(tmp_path, "o/d", commit, [("", "validation")])
    assert not list(tmp_path.glob("o/**/*"))


def test_finetuning_documents_are_those_of_the_training_split(fake):
    records = [{"instruction": "a", "input": "", "output": "b"}]
    files = {"alpaca.json": json.dumps(records).encode(), "README.md": SMALL}
    commit = fake.add("o/d", files, "dataset", cached=False)
    assert hub.read_training_documents("o/d", commit) == records
    commit = fake.add("o/e", {"a.json": SMALL, "b.json": SMALL}, "dataset")
    with pytest.raises(HubError, match="o/e at .*one data file.*a.json, b.json"):
        hub.read_training_documents("o/e", commit)


def test_files_are_fetched_and_checked(fake):
    commit = fake.add("o/d", {"a.parquet": LARGE, "b.json": SMALL}, "dataset", cached=False)
    files = hub.list_files("o/d", "dataset", commit, "all", some)
    del files["b.json"]
    folder = hub.fetch("o/d", "dataset", commit, files)
    assert [p.name for p in folder.iterdir()] == ["a.parquet"]
    assert (folder / "a.parquet").read_bytes() == LARGE


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:-1] + b"!", lambda c: None])
def test_a_file_that_differs_from_the_hub_is_refused_by_name(fake, name, damage, monkeypatch):
    commit = fake.add("o/m", {"config.json": SMALL, "model.safetensors": LARGE})
    files = hub.list_files("o/m", "model", commit, "all", some)
    folder = hub.fetch("o/m", "model", commit, files)
    content = damage((folder / name).read_bytes())
    blob = (folder / name).resolve()
    blob.write_bytes(content) if content else (folder / name).unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(folder))
    with pytest.raises(HubError, match=rf"{name} .*run again"):
        hub.fetch("o/m", "model", commit, files)


# ---- models --------------------------------------------------------------------------------------


REPOSITORY = dict.fromkeys(
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    + ["chat_template.jinja", "merges.txt", "tokenizer.model", "model.safetensors"],
    {"bytes": 1, "git_sha1": "0"},
)
NOT_READ = dict.fromkeys(
    [
        "README.md",
        ".gitattributes",
        "consolidated.safetensors",
        "pytorch_model.bin",
        "a/config.json",
    ],
    {"bytes": 1, "git_sha1": "0"},
)
PARTS = dict.fromkeys((f"model-0000{n}-of-00002.safetensors" for n in (1, 2)), {"bytes": 1})


def test_the_files_of_a_model_are_those_that_loading_it_reads():
    assert hub.model_files("o/m", REPOSITORY | NOT_READ).keys() == REPOSITORY.keys()
    parts = {"config.json": {}, "model.safetensors.index.json": {}} | PARTS
    assert hub.model_files("o/m", parts | NOT_READ).keys() == parts.keys()


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_a_repository_that_is_no_model_is_refused(lost):
    files = {name: entry for name, entry in (REPOSITORY | NOT_READ).items() if name != lost}
    with pytest.raises(HubError, match=r"o/m: config.json and model.safetensors.*README.md"):
        hub.model_files("o/m", files)


@pytest.mark.parametrize("lost", PARTS)
def test_a_part_of_the_weights_is_no_model(lost):
    files = {"config.json": {}} | {name: entry for name, entry in PARTS.items() if name != lost}
    with pytest.raises(HubError, match="all of its parts"):
        hub.model_files("o/m", files)


def test_a_model_is_loaded_from_its_manifest_on_another_machine(fake, tmp_path):
    """Stage 0 lists the files; the machine that needs the weights downloads and verifies them."""
    folder = write_multimodal(tmp_path / "mistralai")
    quantize(folder)
    commit = fake.add_folder("mistralai/tiny", folder, cached=False)
    manifest = hub.describe_model("mistralai/tiny", commit)
    assert [call[0] for call in fake.calls] == ["list"]
    assert manifest["model_sha"] == commit  # named as in lm-eval

    tokenizer_only = hub.model_folder("results/base/manifest.json", manifest, weights=False)
    assert not list(tokenizer_only.glob("*.safetensors"))
    model, tokenizer = load(hub.model_folder("results/base/manifest.json", manifest))
    expected, _ = load(folder)
    assert type(model).__name__ == "Ministral3ForCausalLM"
    for (name, found), wanted in zip(
        model.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert found.equal(wanted), name
    assert tokenizer("Eve has it.")["input_ids"]


def test_an_index_that_names_files_beyond_the_manifest_is_refused(fake, tmp_path):
    folder = write_multimodal(tmp_path / "mistralai")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    shutil.copyfile(folder / "model-00001-of-00001.safetensors", folder / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    commit = fake.add_folder("mistralai/tiny", folder)  # all its files are in the cache
    manifest = hub.describe_model("mistralai/tiny", commit)
    with pytest.raises(HubError, match=r"names 'other.safetensors', which .* does not list"):
        hub.model_folder("results/base/manifest.json", manifest)


def test_a_manifest_without_a_commit_names_a_folder_beside_it():
    found = hub.model_folder("results/base/manifest.json", {"model": "pretrained/base"})
    assert found.as_posix() == "results/base/pretrained/base"


# ---- errors --------------------------------------------------------------------------------------


def http(kind, status):
    request = httpx2.Request("GET", "https://huggingface.co/api")
    return kind("refused", response=httpx2.Response(status, request=request))


ERRORS = {
    "gated": (http(errors.GatedRepoError, 403), "huggingface.co/o/m", "conditions", "HF_TOKEN"),
    "unknown": (http(errors.RepositoryNotFoundError, 401), "no such model", "private", "HF_TOKEN"),
    "forbidden": (http(errors.HfHubHTTPError, 403), "token", "403", "licence", "o/m"),
    "no token": (http(errors.HfHubHTTPError, 401), "token", "401", "`hf auth login`"),
    "no commit": (http(errors.RevisionNotFoundError, 404), "no such revision", "`ablation pin`"),
    "offline": (errors.OfflineModeIsEnabled("off"), "cannot be reached", "OfflineModeIsEnabled"),
    "no network": (httpx2.ConnectError("no route"), "cannot be reached", "ConnectError"),
    "slow": (httpx2.ReadTimeout("slow"), "cannot be reached", "ReadTimeout"),
    "not cached": (errors.LocalEntryNotFoundError("none"), "cannot be reached", "cache"),
    "hub down": (http(errors.HfHubHTTPError, 503), "cannot be reached"),
}


@pytest.mark.parametrize("error, fragments", [(v[0], v[1:]) for v in ERRORS.values()], ids=ERRORS)
def test_an_error_names_what_was_needed_and_what_to_do(fake, monkeypatch, error, fragments):
    commit = "c" * 40
    monkeypatch.setattr(fake, "list_repo_tree", raising(error))
    monkeypatch.setattr(fake, "repo_info", raising(error))
    monkeypatch.setattr("huggingface_hub.snapshot_download", raising(error))
    calls = {
        "its weights": lambda: hub.list_files("o/m", "model", commit, "its weights", some),
        "the commit of v1": lambda: hub.resolve_commit("o/m", "model", "v1"),
        "a.json, b.json": lambda: hub.fetch("o/m", "model", commit, {"a.json": {}, "b.json": {}}),
    }
    for needed, call in calls.items():
        with pytest.raises(HubError) as raised:
            call()
        message = str(raised.value)
        assert message.startswith("o/m: ") and raised.value.__cause__ is error
        assert all(fragment in message for fragment in fragments), message
        assert needed in message or "no such revision" in message, message
        if "cannot be reached" in message:
            command = "`ablation pin`" if "v1" in needed else f"download o/m --revision {commit}"
            assert command in message, message


def test_data_sets_have_their_own_pages_and_commands(fake, monkeypatch):
    monkeypatch.setattr(fake, "list_repo_tree", raising(http(errors.GatedRepoError, 403)))
    with pytest.raises(HubError, match="huggingface.co/datasets/o/d"):
        hub.list_files("o/d", "dataset", "c" * 40, "all", some)
    monkeypatch.setattr("huggingface_hub.snapshot_download", raising(httpx2.ConnectError("no")))
    with pytest.raises(HubError, match="download o/d --repo-type dataset --revision cccc"):
        hub.fetch("o/d", "dataset", "c" * 40, {"a.json": {}})


# ---- the files of a data set ---------------------------------------------------------------------


LAYOUTS = {
    "hub": (["data/train-0-of-1.parquet", "data/validation-0-of-1.parquet"], "", 1),
    "converted": (["default/train/0000.parquet", "default/validation/0000.parquet"], "", 1),
    "lines": (["train.jsonl", "valid.jsonl", "test.jsonl"], "", 1),
    "configuration": (["A/validation-0.parquet", "B/validation-0.parquet"], "B", 1),
    "development": (["dev.jsonl", "dev-labels.lst"], "", 0),
    "its own name before other words": (["dev-0.parquet", "validation-0.parquet"], "", 1),
}


@pytest.mark.parametrize("names, configuration, index", LAYOUTS.values(), ids=LAYOUTS)
def test_a_split_is_found_by_the_names_of_files(names, configuration, index):
    assert split_files([*names, "README.md"], configuration, "validation") == [names[index]]


def test_a_word_that_only_contains_the_name_of_a_split_is_no_split():
    assert split_files(["evaluations/x.parquet", "interval.jsonl"], "", "validation") == []
    assert split_files(["contest.jsonl", "latest-x.parquet"], "", "test") == []


def test_finetuning_data_are_the_training_split_or_the_only_file():
    assert training_files(["README.md", "a.json", "dataset_infos.json"]) == ["a.json"]
    assert training_files(["train-0.parquet", "test-0.parquet", "train-1.parquet"]) == [
        "train-0.parquet",
        "train-1.parquet",
    ]
    for names in (["a.json", "b.json"], ["README.md"], []):
        with pytest.raises(ValueError, match="found"):
            training_files(names)


def test_documents_are_read_from_every_format(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    records = [{"a": "x\u2028y\nz", "b": [1, 2]}, {"a": "ü", "b": []}]
    (tmp_path / "a.json").write_text(json.dumps(records), "utf-8")
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (tmp_path / "a.jsonl").write_text("".join(lines), "utf-8")
    parquet.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    for suffix in ("json", "jsonl", "parquet"):
        assert read_documents(tmp_path / f"a.{suffix}") == records
