"""Promises of retrieval items: their length, the place of the answer, and one answer alone."""

import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.cli.main import main
from ablation.config.load import load_study
from ablation.config.merging import ConfigError
from ablation.data import needles
from ablation.data.json_lines import read_json_lines
from ablation.data.needles import POSITIONS, task_name, tokens_and_position
from ablation.model.checkpoints import read_tokenizer
from ablation.scoring.items import Items
from tests.support.tiny import tiny_model, tiny_tokenizer

SENTENCE = re.compile(r"The code of ([A-Z][a-z]{5}) is (\d{5})\.")


@cache
def lengths_by(tokenizer):
    """The lengths of texts in tokens of the micro base (with BOS), or in words."""
    if tokenizer == "words":
        return lambda texts: [len(text.split()) for text in texts]
    own = read_tokenizer("resources/micro/base")
    return lambda texts: [len(ids) for ids in own(list(texts))["input_ids"]]


def parts(item):
    """The needle, the other sentences with codes, and the fillers of an item."""
    text, question = item["query"].split("\n\n")
    name = re.fullmatch(r"Question: What is the code of (\w+)\?\nAnswer:", question)[1]
    sentences = re.findall(r"[^.]+\.", text)
    facts = [s.strip() for s in sentences if SENTENCE.fullmatch(s.strip())]
    needle = [fact for fact in facts if SENTENCE.fullmatch(fact)[1] == name]
    return needle, facts, [s.strip() for s in sentences if s.strip() not in facts]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2000, 3600),  # some texts of fewer tokens are refused
    st.sampled_from(list(POSITIONS)),
    st.integers(0, 10**6),
    st.sampled_from(["micro", "words"]),
)
def test_an_item_has_its_length_and_one_answer_at_its_place(tokens, position, seed, tokenizer):
    lengths = lengths_by(tokenizer)
    (item,) = needles.items(tokens, position, 1, seed, lengths)
    query, choices = item["query"], item["choices"]
    (needle,), facts, fillers = parts(item)

    longest_filler = max(lengths([f" {filler}" for filler in fillers]))
    whole = max(lengths([f"{query} {choice}" for choice in choices]))
    assert tokens - longest_filler < whole <= tokens

    before = lengths([query[: query.index(needle)]])[0]
    share = POSITIONS[position]
    assert abs(before - share * lengths([query])[0]) <= longest_filler

    assert len(set(choices)) == len(choices) == needles.CHOICES == len(facts)
    assert SENTENCE.fullmatch(needle)[2] == choices[item["gold"]]
    assert all(query.count(choice) == 1 for choice in choices)
    assert not any(character.isdigit() for filler in fillers for character in filler)
    assert not set(re.findall(r"[A-Z]\w+", " ".join(fillers))) - {"The"}


def test_equal_arguments_give_equal_items_and_others_give_others():
    lengths = lengths_by("words")

    def made(position="early", seed=1, tokens=1500):
        return list(needles.items(tokens, position, 3, seed, lengths))

    first = made()
    assert made() == first
    queries = [item["query"] for item in first]
    assert len(set(queries)) == 3
    for other in (made(seed=2), made(position="late"), made(tokens=1501)):
        assert not set(queries) & {item["query"] for item in other}


def test_neither_place_nor_order_of_the_codes_gives_the_answer_away():
    ranks, golds = [], []
    for item in needles.items(1500, "middle", 120, 1, lengths_by("words")):
        codes = [SENTENCE.fullmatch(fact)[2] for fact in parts(item)[1]]
        ranks.append(codes.index(item["choices"][item["gold"]]))
        golds.append(item["gold"])
    for found in (ranks, golds):  # 30 of each are expected, and 15 or fewer come once in 800 draws
        assert all(15 < found.count(n) < 50 for n in range(needles.CHOICES))


def test_a_length_without_room_is_refused_with_one_that_suffices():
    lengths = lengths_by("micro")
    with pytest.raises(needles.Unfitting, match="^300 tokens are too few .* around 10%") as caught:
        list(needles.items(300, "early", 20, 1, lengths))
    enough = int(re.search(r"give (\d+) or more", str(caught.value))[1])
    assert len(list(needles.items(enough, "early", 20, 1, lengths))) == 20


# ---- the command, its files, and studies that name them ------------------------------------------


@pytest.fixture
def model(tmp_path):
    """The folder of a model that reads 4,096 tokens."""
    folder = tmp_path / "model"
    tokenizer = tiny_tokenizer()
    tiny_model("llama", len(tokenizer), max_position_embeddings=4096).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def written(tmp_path, model, *more):
    out, config = tmp_path / "data", tmp_path / "config"
    command = ["needle", str(model), "--items", "2", "--out", str(out), "--config", str(config)]
    status = main([*command, *more])
    return status, out, config / "tasks/needle"


def test_the_command_writes_tasks_that_lm_eval_reads_and_the_same_bytes_again(
    tmp_path, model, capsys
):
    status, data, tasks = written(tmp_path, model, "--tokens", "3000", "4096")
    assert status == 0
    names = [f"needle_{n}_{p}" for n in ("3000", "4k") for p in ("early", "middle", "late")]
    assert f"evaluation: {{tasks: [{', '.join(names)}]}}" in capsys.readouterr().out
    files = {file: file.read_bytes() for file in (*data.iterdir(), *tasks.iterdir())}
    assert sorted(file.stem for file in files) == sorted(2 * names)
    written(tmp_path, model, "--tokens", "3000", "4096")
    assert {file: file.read_bytes() for file in files} == files

    tokenizer = read_tokenizer(model)
    (part,) = Items(tokenizer, ["needle_4k_late"], tasks).by_protocol
    made = read_json_lines(data / "needle_4k_late.jsonl")
    expected = [(item["query"], f" {choice}") for item in made for choice in item["choices"]]
    assert part.requests == expected
    assert list(part.rows.gold[:: needles.CHOICES]) == [item["gold"] for item in made]


def test_a_model_that_reads_fewer_tokens_is_refused_by_the_command(tmp_path, model, capsys):
    status, data, tasks = written(tmp_path, model, "--tokens", "4096", "8192")
    assert status == 1 and not data.exists() and not tasks.exists()
    said = capsys.readouterr().err
    assert re.search(r"--tokens 8192 found, .* reads 4096 at most.* Give fewer, or another", said)


def test_the_model_may_be_that_of_a_base_in_results(tmp_path, capsys):
    """Its manifest says where the model is; a hub model is in the hub's cache."""
    status, *_ = written(tmp_path, "resources/micro", "--tokens", "4096")
    assert status == 1
    said = capsys.readouterr().err
    assert "the model in resources/micro/base reads 512 at most" in said


def test_a_study_whose_base_reads_fewer_tokens_is_refused(configs):
    tasks = configs / "tasks"
    for tokens in (400, 4096):
        name = task_name(tokens, "late")
        (tasks / f"{name}.yaml").write_text(needles.task_file(tokens, "late", "items.jsonl"))

    def study(*names):
        return load_study({"evaluation": {"tasks": list(names)}}, configs)

    with pytest.raises(ConfigError) as caught:
        study("needle_400_late", "needle_4k_late")
    (line,) = [line for line in str(caught.value).splitlines() if "needle" in line]
    assert "evaluation.tasks[1]" in line and "'needle_4k_late' has items of 4096 tokens" in line
    assert "the base reads at most 512" in line and "`ablation needle`" in line
    assert study("needle_400_late").evaluation.tasks == ["needle_400_late"]


def test_the_shipped_study_of_retrieval_has_the_tasks_that_its_command_makes(configs):
    for name in ("smollm2.yaml", "smollm2_needle.yaml"):
        shutil.copy(Path("config") / name, configs)
    shipped = (configs / "smollm2_needle.yaml").read_text("utf-8")
    (found,) = re.findall(r"ablation needle MODEL --tokens ([\d ]+) --items \d+$", shipped, re.M)
    tasks = [(int(tokens), place) for tokens in found.split() for place in POSITIONS]
    pins = yaml.safe_load((configs / "smollm2.yaml").read_text("utf-8"))["pins"]
    chosen = {"extends": "smollm2_needle.yaml", "pins": dict.fromkeys(pins, "a" * 40)}
    for tokens, place in tasks:
        file = configs / "tasks" / f"{task_name(tokens, place)}.yaml"
        file.write_text(needles.task_file(tokens, place, str(configs / "items.jsonl")))
    (configs / "items.jsonl").write_text("")
    named = load_study(chosen, configs).evaluation.tasks
    assert [tokens_and_position(name) for name in named] == tasks


def test_a_missing_retrieval_task_names_the_command_that_makes_it(configs):
    with pytest.raises(ConfigError) as caught:
        load_study({"evaluation": {"tasks": ["needle_2k_late"]}}, configs)
    assert "`ablation needle MODEL --tokens 2048` makes it" in str(caught.value)


@given(st.integers(1, 10**6), st.sampled_from(list(POSITIONS)))
def test_the_name_of_a_task_says_its_length_and_position(tokens, position):
    assert tokens_and_position(task_name(tokens, position)) == (tokens, position)


@pytest.mark.parametrize("task", ["needle", "needle_4k", "needle_4k_nowhere", "my_needle_4k_late"])
def test_other_names_say_neither(task):
    assert tokens_and_position(task) is None
