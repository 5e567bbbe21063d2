"""Promises of instruction data of the user: every usual form is read, every bad row is named."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ablation.data.instruction_files import read_instructions
from ablation.data.local_files import ChangedFile, hashes, is_local, training_split, unchanged

ALPACA = [
    {"instruction": "Say red.", "input": "", "output": "red"},
    {"instruction": "Say it.", "input": "blue", "output": "blue"},
]


def turns(*pairs, role="role", text="content"):
    return [{role: r, text: t} for r, t in pairs]


def write(folder, suffix, rows):
    file = folder / f"records.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif suffix == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    else:
        file.write_text(json.dumps(rows, indent=1))
    return file


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "json"])
def test_alpaca_records_are_read_from_every_kind_of_file(tmp_path, suffix):
    assert read_instructions(write(tmp_path, suffix, ALPACA)) == ALPACA


def test_a_json_file_may_hold_lines(tmp_path):
    file = write(tmp_path, "jsonl", ALPACA)
    assert read_instructions(file.rename(tmp_path / "lines.json")) == ALPACA


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "json"])
def test_chats_become_records_of_the_last_answer_and_what_stands_before_it(tmp_path, suffix):
    one = turns(("user", "Say red."), ("assistant", "red"))
    several = turns(
        ("system", "Be brief."),
        ("user", "Say red."),
        ("assistant", "red"),
        ("user", "Again."),
        ("assistant", "red!"),
        ("user", "Thanks."),
    )
    file = write(tmp_path, suffix, [{"messages": one}, {"messages": several}])
    before = "System: Be brief.\n\nUser: Say red.\n\nAssistant: red\n\nUser: Again."
    assert read_instructions(file) == [
        {"instruction": "Say red.", "input": "", "output": "red"},
        {"instruction": before, "input": "", "output": "red!"},
    ]
    shared = turns(("human", "Say red."), ("gpt", "red"), role="from", text="value")
    assert read_instructions(write(tmp_path, suffix, [{"conversations": shared}])) == [
        {"instruction": "Say red.", "input": "", "output": "red"}
    ]


GOOD = turns(("user", "a"), ("assistant", "b"))
BAD = {
    "no known field": (
        {"prompt": "a", "output": "b"},
        "`instruction` is missing",
        "prompt, output",
    ),
    "number for a text": ({"instruction": "a", "output": 3}, "`output`", "text was expected, 3"),
    "a list for a record": ([1], "a JSON object was expected, [1] found"),
    "another role": (
        {"messages": [{"role": "tool", "content": "a"}, *GOOD]},
        "`messages[0].role`",
        "one of system, user",
        "'tool' found",
    ),
    "parts for a text": (
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        "`messages[0].content`: text was expected",
        "image",
    ),
    "fields of the other kind": (
        {"conversations": GOOD},
        "`conversations[0].from`",
        "None found",
    ),
    "no answer": ({"messages": GOOD[:1]}, "`messages`", "an answer were expected, User found"),
    "an answer to nothing": ({"messages": GOOD[1:]}, "`messages`", "Assistant found"),
    "an empty chat": ({"messages": []}, "`messages`", "nothing found"),
    "a text for a chat": ({"messages": "hello"}, "`messages[0]`", "'hello' found"),
}


@pytest.mark.parametrize("row, fragments", [(v[0], v[1:]) for v in BAD.values()], ids=BAD)
def test_a_bad_row_is_named_with_its_file_number_and_field(tmp_path, row, fragments):
    file = write(tmp_path, "json", [ALPACA[0], row])
    with pytest.raises(ValueError) as error:
        read_instructions(file)
    message = str(error.value)
    assert all(part in message for part in (f"{file}, record 2: ", *fragments)), message


def test_a_broken_file_is_named(tmp_path):
    file = tmp_path / "records.json"
    file.write_text("[{]")
    with pytest.raises(ValueError, match=r"records\.json: a list of records in JSON was expected"):
        read_instructions(file)


def test_the_training_split_of_a_folder_is_read_in_order_and_nothing_else(tmp_path):
    for name in (
        "data/train-1.parquet",
        "data/train-0.parquet",
        "data/test-0.parquet",
        ".train.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [*training_split(tmp_path)] == ["data/train-0.parquet", "data/train-1.parquet"]
    assert training_split(tmp_path / "data/test-0.parquet") == {
        "test-0.parquet": tmp_path / "data/test-0.parquet"
    }
    (tmp_path / "two").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "two" / name).write_text("x")
    with pytest.raises(ValueError, match="found: a.jsonl, b.jsonl"):
        training_split(tmp_path / "two")
    (tmp_path / "records.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"\.parquet, .* file was expected, records\.csv found"):
        training_split(tmp_path / "records.csv")


def test_a_file_that_changed_after_the_study_was_loaded_is_refused(tmp_path):
    file = write(tmp_path, "jsonl", ALPACA)
    expected = hashes(training_split(file), tmp_path / "none")
    assert list(unchanged(tmp_path, expected)) == [("records.jsonl", file)]
    write(tmp_path, "jsonl", ALPACA[:1])
    with pytest.raises(ChangedFile, match=r"records\.jsonl is missing, or has changed since"):
        list(unchanged(tmp_path, expected))


def test_where_only_the_copies_are_the_manifest_says_what_was_copied(tmp_path):
    made = {"fingerprint": {"config": {"files": {"a.jsonl": "0" * 64}}}}
    (tmp_path / "manifest.json").write_text(json.dumps(made))
    assert hashes({}, tmp_path / "manifest.json") == {"a.jsonl": "0" * 64}
    assert hashes({}, tmp_path / "none") == {}


def test_a_path_is_told_from_a_data_set_of_the_hub_without_a_look_at_the_disk(tmp_path):
    here = ["../data", "./owner/name", "owner/name.jsonl", "records.parquet", str(tmp_path)]
    assert all(is_local(data, {}) for data in here)
    assert not is_local("owner/name", {}) and not is_local("owner/name.json", {"owner/name.json"})
