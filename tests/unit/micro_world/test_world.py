"""Promises of the micro-world, with a development seed. The frozen seed is for the report alone."""

import json
import re
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import yaml

from ablation.analysis.bag_of_words import bag_of_words, correct_choices
from ablation.config.world import Pretrain
from ablation.data.alpaca import alpaca_prompt, alpaca_text
from ablation.micro_world.corpus import documents, primer
from ablation.micro_world.instructions import finetuning_records
from ablation.micro_world.scenes import (
    ACTIVITIES,
    ATTRIBUTES,
    ROLES,
    TOOL_FOR,
    FactScene,
    LogScene,
    PetScene,
    RoleScene,
    ToolScene,
    World,
)
from ablation.micro_world.tasks import CHOICES, items, requests
from ablation.model.bpe_tokenizer import train_tokenizer
from ablation.model.packing import Example, pack
from ablation.provenance.files import write_json_lines
from ablation.provenance.manifests import verify_outputs
from ablation.vocabulary.micro_tasks import TASKS

SEED = 3
WORLD_AND_PRETRAINING = ("seed", "eval_percent", "dev_percent", "pretrain")
WEIGHTS = dict.fromkeys([*TASKS, "statement", "register", "alpaca"], 1)


@pytest.fixture(scope="module")
def world():
    return World(SEED, eval_percent=20, dev_percent=10)


@pytest.fixture(scope="module")
def texts(world):
    return list(islice(documents(world, Random(0), WEIGHTS), 6000))


@pytest.fixture(scope="module")
def records(world):
    return finetuning_records(world, 4000, SEED, dict.fromkeys((*TASKS, "open"), 1))


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train_tokenizer(texts[:3000], 1024)


def all_items(world, split, count=200):
    return {task: items(world, task, count, SEED, split) for task in TASKS}


def answered(world, text):
    """Every (scene, answer) that a text gives away, read back from its words alone."""
    told = re.findall(r"Who ([^?]+)\? (\w+)\.", text)
    if told:
        yield from _log_answers(told, text)
    tools = {tool: place for place, tool in re.findall(r"The (\w+) holds the (\w+)\.", text)}
    goals = re.findall(r"How can \w+ ([^?]+)\?", text)
    # a register gives its pairs away without being asked for a goal
    wanted = [TOOL_FOR[goal] for goal in goals] or (list(tools) if "So " in text else [])
    for tool in wanted:
        names, places = tuple(tools), tuple(tools.values())
        yield ToolScene(names, places, "", names.index(tool)), tools[tool]
    pets = {person: animal for animal, person in re.findall(r"The (\w+) chose (\w+)\.", text)}
    for name, attribute in ATTRIBUTES.items():
        pattern = re.escape(attribute.question).replace(r"\{\}", r"the (pet of )?(\w+)")
        for is_pet, who in re.findall(pattern, text):
            if is_pet:
                animals = tuple(pets.values())
                scene = PetScene(tuple(pets), animals, name, list(pets).index(who))
                yield scene, world.fact(pets[who], name)
            else:
                yield FactScene(who, name, ""), world.fact(who, name)
    for number, role in enumerate(ROLES):
        pattern = "Today " + role.sentence.replace("{}", r"(\w+)") + r" (\w+)"
        for first, second, who in re.findall(pattern, text):
            yield RoleScene((first, second), number, (first, second).index(who)), who


def _log_answers(told, text):
    people = tuple(dict.fromkeys(person for _, person in told))
    of = {step: k for k, steps in enumerate(ACTIVITIES) for step in steps}
    activities = tuple(next(of[step] for step, who in told if who == p) for p in people)
    order = tuple(people.index(person) for _, person in told)
    for person, step in re.findall(r"Then (\w+)(?:\n\n### Response:)? ([^.]+)\.", text):
        yield LogScene(people, activities, order, people.index(person)), step


def test_equal_seeds_give_equal_bytes(world, tmp_path):
    def everything(world):
        stream = documents(world, Random(5), WEIGHTS)
        return (
            list(islice(stream, 200)),
            list(islice(primer(Random(5)), 20)),
            all_items(world, "eval", 30),
            finetuning_records(world, 50, 1, dict.fromkeys(TASKS, 1)),
        )

    assert everything(world) == everything(World(SEED, 20, 10))
    assert everything(world) != everything(World(SEED + 1, 20, 10))
    for name in "ab":
        write_json_lines(tmp_path / name, items(world, TASKS[0], 20, 1))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("task", TASKS)
def test_a_split_is_a_matter_of_the_situation_not_of_how_it_is_told(world, task):
    random = Random(0)
    for _ in range(200):
        scene = world.sample(task, "eval", random)
        if isinstance(scene, ToolScene | PetScene):
            retold = _retold(scene, random)
            assert world.split_of(retold) == "eval"
        if isinstance(scene, RoleScene):
            other = RoleScene(scene.people, scene.role, 1 - scene.asked)
            assert world.split_of(other) == "eval"


def _retold(scene, random):
    order = random.sample(
        range(len(scene.people if isinstance(scene, PetScene) else scene.tools)),
        PETS if isinstance(scene, PetScene) else 3,
    )
    asked = order.index(scene.asked)
    if isinstance(scene, PetScene):
        people, animals = ([v[k] for k in order] for v in (scene.people, scene.animals))
        return PetScene(tuple(people), tuple(animals), scene.attribute, asked)
    tools, places = ([v[k] for k in order] for v in (scene.tools, scene.places))
    return ToolScene(tuple(tools), tuple(places), "Zoe", asked)


PETS = 4


def test_no_text_answers_a_heldout_question(world, texts, records):
    """Follow-up questions and mirrored scenes too: every answer in a text is read back."""
    found = dict.fromkeys(TASKS, 0)
    lists = list(islice(primer(Random(1)), 500))
    for text in [*texts, *lists, *map(alpaca_text, records)]:
        for scene, _ in answered(world, text):
            found[scene.task] += 1
            if isinstance(scene, ToolScene) and len(scene.tools) != 3:
                continue  # a register: no item has so few or so many tools
            if isinstance(scene, LogScene) and len(scene.people) != 4:
                continue
            assert world.split_of(scene) == "train", text
    assert min(found.values()) > 500, found  # the reader did find the answers


@pytest.mark.parametrize("split", ["dev", "eval"])
def test_items_are_well_formed_distinct_and_from_their_split(world, split):
    for task, made in all_items(world, split).items():
        assert len(made) == (200 if (task, split) != ("micro_arc_easy", "dev") else len(made))
        seen = set()
        for item in made:
            asked = requests(item)
            assert len(asked) == len(set(asked)) == CHOICES[task]
            assert 0 <= item["gold"] < CHOICES[task]
            seen.add((frozenset(asked), asked[item["gold"]]))
            context, continuation = asked[item["gold"]]
            for scene, _ in answered(world, context + continuation):
                assert world.split_of(scene) == split
        assert len(seen) == len(made)
        golds = [item["gold"] for item in made]
        assert max(golds.count(k) for k in set(golds)) < len(made) * 1.4 / CHOICES[task]


def test_dev_and_eval_and_training_items_share_no_question(world):
    by_split = {
        split: {
            request
            for made in all_items(world, split).values()
            for item in made
            for request in requests(item)
        }
        for split in ("train", "dev", "eval")
    }
    assert not by_split["dev"] & by_split["eval"]
    assert not by_split["train"] & (by_split["dev"] | by_split["eval"])


def test_word_counts_alone_stay_near_chance(world):
    baselines = bag_of_words(world, all_items(world, "dev", 300))
    assert baselines.near_chance.all(), baselines


def test_the_bag_of_words_model_can_learn_what_word_counts_tell():
    random = Random(0)

    def easy(count):
        for _ in range(count):
            key = random.choice("abcd")
            yield {"query": f"key {key}", "choices": list("wxyz"), "gold": "abcd".index(key)}

    assert correct_choices(list(easy(100)), list(easy(50)), list(easy(7))) == [50, 7]


def test_tokenizer_is_deterministic_and_loses_nothing(tokenizer, texts, records):
    again = train_tokenizer(texts[:3000], 1024)
    assert again.get_vocab() == tokenizer.get_vocab()
    for text in [*texts[-200:], "Ünseen — bytes\n\t☃"]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_every_text_starts_with_bos_and_pieces_do_not(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer("Eve")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in tokenizer("Eve", add_special_tokens=False)["input_ids"]


def test_prompt_and_response_apart_are_the_text_at_once(tokenizer, world, records):
    """Pretraining saw them at once, finetuning and scoring tokenize them apart."""
    pairs = [(alpaca_prompt(r), f" {r['output']}") for r in records[:300]]
    for made in all_items(world, "dev", 50).values():
        pairs += [request for item in made for request in requests(item)]
    for prompt, response in pairs:
        apart = tokenizer(prompt)["input_ids"]
        apart = apart + tokenizer(response, add_special_tokens=False)["input_ids"]
        assert apart == tokenizer(prompt + response)["input_ids"]


def test_every_example_fits_a_row(tokenizer, texts, records):
    longest = max(len(tokenizer(t)["input_ids"]) for t in [*texts, *map(alpaca_text, records)])
    assert longest + 1 <= 112


def test_alpaca_prompt_leaves_out_an_empty_input():
    with_input = alpaca_prompt({"instruction": "Add.", "input": "1 2", "output": "3"})
    assert with_input == "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:"
    without = alpaca_prompt({"instruction": "Hi.", "input": "", "output": "Hello"})
    assert without == "### Instruction:\nHi.\n\n### Response:"


def test_lm_eval_reads_the_items_from_the_study_folder(world, tmp_path, monkeypatch):
    tasks = pytest.importorskip("lm_eval.tasks")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = all_items(world, "dev", 20)
    for task, chosen in made.items():
        write_json_lines(tmp_path / f"{task}.jsonl", chosen)
    manager = tasks.TaskManager(
        include_path="config/tasks", include_defaults=False, metadata={"data_folder": str(tmp_path)}
    )
    for name, task in manager.load(list(TASKS))["tasks"].items():
        task.build_all_requests()
        asked = [instance.args for instance in task.instances if instance.doc_id == 0]
        assert asked == requests(made[name][0])
        assert len(task.instances) == len(made[name]) * CHOICES[name]


def test_a_tiny_base_is_pretrained_saved_and_equal_twice(tmp_path):
    from ablation.micro_world.pretrain import pretrain

    tiny = Pretrain.model_validate(
        {
            "seed": SEED,
            "attempts": 2,
            "threads": 1,
            "documents": WEIGHTS,
            "tokenizer": {"documents": 300, "vocabulary": 512},
            "model": {
                "width": 16,
                "feed_forward": 16,
                "layers": 1,
                "heads": 1,
                "head_dim": 16,
                "embedding_std": 0.5,
            },
            "lr_muon": 0.005,
            "lr_adamw": 0.004,
            "rate_after_primer": 0.6,
            "warmup_steps": 2,
            "max_steps": 6,
            "cooldown_steps": 2,
            "max_grad_norm": 1.0,
            "stop_accuracy": 1.0,
            "batch_documents": 4,
            "row_tokens": 160,
            "primer": {"alone_until": 2, "faded_at": 4, "kept_share": 0.1},
            "check": {"items": 4, "from_step": 2, "every": 1},
        }
    )
    at_once, never = (tiny.model_copy(update={"stop_accuracy": share}) for share in (0.0, 2.0))
    world = World(SEED, 20, 10)
    first = pretrain(world, at_once, tmp_path / "a", progress=False)
    assert first == pretrain(world, at_once, tmp_path / "b", progress=False)
    assert first["steps"] == 4 and first["learned"]  # stopped two steps after the first check
    summary = pretrain(world, never, tmp_path / "c", progress=False)
    assert (summary["attempt"], summary["seed"], summary["learned"]) == (1, SEED + 1, False)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert pack([Example([], [[1, 2]])], 4).target_id.tolist() == [2]  # BOS is given, not predicted


def test_every_step_of_an_activity_is_in_the_vocabulary_of_the_shipped_base():
    """A word that is changed here would be one that the base has never read."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("resources/micro/base")
    known = tokenizer.get_vocab()
    words = {word for steps in ACTIVITIES for step in steps for word in step.split()}
    assert {word for word in words if f"Ġ{word}" not in known} == set()


def test_the_shipped_base_is_the_one_that_the_default_study_describes():
    """Its facts are the world's: another seed or recipe in the config needs another base."""
    made = json.loads(Path("resources/micro/manifest.json").read_text())
    world = yaml.safe_load(Path("config/default.yaml").read_text())["world"]
    assert made["fingerprint"]["config"]["world"] == {
        key: world[key] for key in WORLD_AND_PRETRAINING
    }
    assert made["summary"]["learned"] and made["summary"]["parameters"] <= 2_000_000
    assert sum(entry["bytes"] for entry in made["outputs"].values()) <= 6_000_000
    verify_outputs("resources/micro/manifest.json", made)
