"""Promises about bad finetuning data: it is refused with file and line before tokenization."""

import pytest

from ablation.data.alpaca import first_records, read_records
from ablation.data.json_lines import read_json_lines
from ablation.provenance.files import write_json_lines
from ablation.training.examples import read_examples

GOOD = '{"instruction": "Say red.", "output": "red"}\n'
RECORDS = {
    "no JSON": (GOOD + "{instruction}\n", "line 2", "Expecting property name"),
    "JSON cut off": (GOOD + GOOD + GOOD[:20], "line 3", "Unterminated string"),
    "two records on a line": (GOOD.strip() + GOOD, "line 1", "Extra data"),
    "a list": ("[1]\n", "line 1", "a JSON object was expected"),
    "a number": (GOOD + "3\n", "line 2", "a JSON object was expected"),
    "whole file a list": ("[\n" + GOOD + "]\n", "line 1"),
    "field missing": ('\n{"instruction": "a"}\n', "line 2", "`output` is missing", "add it"),
    "other fields": ('{"prompt": "a", "output": "b"}\n', "line 1", "`instruction`", "prompt"),
    "empty record": (GOOD + "{}", "line 2", "`instruction` is missing"),
    "number for a text": ('{"instruction": "a", "output": 3}', "line 1", "`output`", "text", "3"),
    "null for a text": ('{"instruction": null, "output": "a"}', "line 1", "`instruction`", "None"),
    "list as input": ('{"instruction": "a", "input": [], "output": "b"}', "line 1", "`input`"),
    "half of a surrogate pair": ('{"instruction": "a", "output": "\\ud800"}', "line 1", "`output`"),
    "empty file": ("", "no record", "one {instruction, input, output} a line"),
    "blank lines only": ("\n\n", "no record"),
}


@pytest.mark.parametrize("text, fragments", [(v[0], v[1:]) for v in RECORDS.values()], ids=RECORDS)
def test_data_that_cannot_be_trained_on(tmp_path, text, fragments):
    file = tmp_path / "bad.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        read_examples(file, None, 64, 0.1, seed=1)  # the tokenizer is None: it is not used
    assert all(part in str(error.value) for part in (str(file), *fragments)), error.value


def test_the_first_records_of_a_data_set_are_returned_or_the_problem_is_named():
    good = {"instruction": "Say red.", "output": "red", "text": "unused"}
    plain = {"instruction": "Say red.", "input": "", "output": "red"}
    assert first_records([good, good | {"input": None}, {}], 2, "o/d") == [plain, plain]
    with pytest.raises(ValueError, match="o/d: 3 records were requested, but it has 2"):
        first_records([good, good], 3, "o/d")
    for bad, problem in (
        ({"instruction": "a"}, "`output` is missing"),
        (good | {"output": 3}, "text"),
    ):
        with pytest.raises(ValueError, match=f"o/d, record 2: .*{problem}"):
            first_records([good, bad], 2, "o/d")


def test_data_in_another_encoding(tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(
        GOOD.encode() + GOOD.replace("red", "gr\xfcn").encode("cp1252")
    )
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2: .*utf-8"):
        read_records(tmp_path / "bad.jsonl")


def test_files_of_other_operating_systems_are_read(tmp_path):
    """The file has a byte-order mark, DOS line ends, no last newline, and separators in a text."""
    text = GOOD.replace("red.", "a\u2028b\u2029c\x85d\x0be".replace("\x0b", "\\u000b"))
    (tmp_path / "odd.jsonl").write_bytes(
        ("\ufeff" + text + GOOD.strip()).replace("\n", "\r\n").encode()
    )
    first, second = read_records(tmp_path / "odd.jsonl")
    assert first["instruction"] == "Say a\u2028b\u2029c\x85d\x0be" and second["output"] == "red"


def test_written_records_are_read_again(tmp_path):
    records = [{"a": "x\u2028y\nz", "b": [1, None]}, {}, {"ü": "\ufeff"}]
    write_json_lines(tmp_path / "a.jsonl", records)
    assert read_json_lines(tmp_path / "a.jsonl") == records
