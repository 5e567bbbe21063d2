"""Promises of record families that nothing is scored on, and of the study of doses of them."""

import hashlib
import re
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.config.load import load_study
from ablation.data.alpaca import alpaca_prompt, alpaca_text
from ablation.micro_world.corpus import documents, primer
from ablation.micro_world.families import FAMILY, family_record
from ablation.micro_world.instructions import finetuning_records
from ablation.micro_world.scenes import (
    ACTIVITIES,
    ANIMALS,
    ATTRIBUTES,
    NAMES,
    PLACES,
    ROLES,
    TOOLS,
    FactScene,
    World,
)
from ablation.micro_world.tasks import items, requests
from ablation.provenance.files import write_json_lines
from ablation.vocabulary.micro_families import FAMILIES, FIRST_ORDER, NEVER_SEEN, SECOND_ORDER, SEEN
from ablation.vocabulary.micro_tasks import TASKS

WORLD = World(4104, eval_percent=20, dev_percent=10)  # the world of the shipped base
DRAWS = st.integers(0, 2**32)
KINDS = {"animal": ANIMALS, "tool": TOOLS, "place": PLACES, "name": NAMES}
KINDS |= {name: a.values for name, a in ATTRIBUTES.items()}
KIND_OF = {word: kind for kind, words in reversed(KINDS.items()) for word in words}


def drawn(name, draw):
    """(request, answer) of a record."""
    record = family_record(WORLD, name, Random(draw))
    assert record["input"] == "" and record["instruction"] and record["output"]
    return record["instruction"], record["output"]


def words(text):
    return re.findall(r"\w+", text)


def sentences(text):
    return [part.strip() for part in re.split(r"[.?]", text) if part.strip()]


def only(found):
    (one,) = found
    return one


def paired(text):
    """The only sentence before the question that has a word in common with it, without that word.

    Both words are of the micro-world, and no other word of the sentence is.
    """
    *told, question = ([w for w in words(t) if w in KIND_OF] for t in sentences(text))
    return only(w for pair in told if set(question) & set(pair) for w in set(pair) - set(question))


def in_short(text):
    pairs = [[w for w in words(part) if w in KIND_OF] for part in sentences(text)[:2]]
    first_kind = ("name", "place")
    pairs = [sorted(pair, key=lambda w: KIND_OF[w] not in first_kind) for pair in pairs]
    return " ".join(f"{key} {value}." for key, value in pairs)


def last(text):
    return [word for word in words(text) if word in KIND_OF][-1]


def missing(text):
    whole, rest, _ = map(words, sentences(text))
    return only(set(whole) - set(rest))


def next_turn(text):
    return words(sentences(text)[0])[-2]


def facts(attribute):
    return lambda text: " ".join(WORLD.fact(a, attribute) for a in words(sentences(text)[0]))


def recalled(text):
    told = re.findall(r"The (\w+) chose (\w+)\.", text)
    told += re.findall(r"The (\w+) holds the (\w+)\.", text)
    return {key: value for value, key in told}[words(text)[-1]]


def stated(text):
    animal, verb = re.search(r"The (\w+) (is|eats|lives in the)$", text).groups()
    attribute = {"is": "colour", "eats": "food"}.get(verb, "home")
    return f"{WORLD.fact(animal, attribute)}."


# Each answer once more, read from the words of the request alone.
ANSWERS = dict.fromkeys(("gift", "hideout", "meal", "paint", "room", "blow"), paired)
ANSWERS |= {"echo": in_short, "list": in_short, "arrival": last, "race": last}
ANSWERS |= {"absent": missing, "lost": missing, "turn": next_turn, "row": next_turn}
ANSWERS |= {"colours": facts("colour"), "foods": facts("food"), "statement": stated}
ANSWERS |= dict.fromkeys(("recall_pets", "recall_tools"), lambda text: f"{recalled(text)}.")
ANSWERS["first_hop"] = recalled


@pytest.mark.parametrize("name", FAMILIES)
@given(DRAWS)
@settings(max_examples=60)
def test_every_answer_is_right_and_follows_from_its_prompt(name, draw):
    request, answer = drawn(name, draw)
    assert ANSWERS[name](request) == answer


def test_there_are_eight_families_in_each_of_two_orders():
    assert set(FAMILY) == set(FAMILIES) == set(ANSWERS) and len(set(FAMILIES)) == len(FAMILIES)
    assert len(FIRST_ORDER) == len(SECOND_ORDER) == 8
    assert not set(FAMILIES) & {*TASKS, "open"}


def shape(text):
    """A text with every word of the micro-world replaced by its kind."""
    return re.sub(r"\w+", lambda found: KIND_OF.get(found[0], found[0]), text)


# The questions of the five tasks, and the sentences that tell what they ask about.
QUESTIONS = [re.escape(shape(a.question)).replace(r"\{\}", ".*") for a in ATTRIBUTES.values()]
QUESTIONS += [
    "How can",
    "Then name",
    "Today",
    *(re.escape(r) for role in ROLES for r in role.reasons),
]
EVIDENCE = ["chose", "holds the", *(re.escape(step) for steps in ACTIVITIES for step in steps)]


@pytest.mark.parametrize("name", FAMILIES)
@given(DRAWS)
@settings(max_examples=60)
def test_no_record_has_the_form_of_a_scored_item(name, draw):
    text = alpaca_text(family_record(WORLD, name, Random(draw)))
    forms = QUESTIONS if name in SEEN else QUESTIONS + EVIDENCE
    assert [form for form in forms if re.search(form, shape(text)) or re.search(form, text)] == []


def test_the_forms_that_records_must_not_have_are_those_of_the_items():
    for task in TASKS:
        for item in items(WORLD, task, 30, 7501):
            texts = [" ".join(request) for request in requests(item)]
            assert all(
                any(re.search(q, shape(t)) or re.search(q, t) for q in QUESTIONS) for t in texts
            )


@pytest.mark.parametrize("name, attribute", [("colours", "colour"), ("foods", "food")])
@given(DRAWS)
def test_no_record_tells_a_fact_whose_question_is_held_out(name, attribute, draw):
    told = [(animal, attribute) for animal in words(sentences(drawn(name, draw)[0])[0])]
    told += [(words(drawn("statement", draw)[0])[4], other) for other in ATTRIBUTES]
    for animal, other in told:
        assert WORLD.split_of(FactScene(animal, other, "")) == "train", (animal, other)


@pytest.fixture(scope="module")
def corpus():
    """Many pretraining documents of every kind as one text of shapes."""
    study = load_study({})
    weights = study.world.pretrain.documents
    texts = [*islice(documents(WORLD, Random(0), weights), 8000), *islice(primer(Random(0)), 500)]
    return "\n".join(map(shape, texts))


@pytest.mark.parametrize("name", NEVER_SEEN)
def test_pretraining_has_no_text_of_a_family_that_it_has_never_seen(name, corpus):
    for draw in range(200):
        request, _ = drawn(name, draw)
        assert shape(request) not in corpus, request
        *told, question = re.findall(r"[^.?]+[.?]", request)
        assert all(shape(part.strip()) not in corpus for part in (*told, question)), request


@pytest.mark.parametrize("name", SEEN)
def test_pretraining_has_the_texts_of_the_other_families(name, corpus):
    for draw in range(50):
        request, answer = map(shape, drawn(name, draw))
        _, evidence, question = re.match(r"(.*?\.) (.*?)(?: (Which .*))?$", request).groups()
        assert evidence in corpus
        assert (f"{question}\nAnswer: {answer}" if question else answer) in corpus


# The start of the sha256 of the default study's records: docs/studies/micro.md stands on them.
DEFAULT = {
    "": "5a7e6cdeae50b40c",
    "3B-open": "5a7bd512da6752b1",
    "3B-no-hellaswag-piqa": "8aa50cef8d3e8dbf",
    "3B-no-challenge-winogrande": "3259634bf5bb23a2",
}


@pytest.mark.parametrize("recipe", DEFAULT)
def test_the_records_of_the_default_study_are_the_same_bytes_as_before_there_were_families(
    recipe, tmp_path
):
    study = load_study({})
    block = study.world.finetuning
    weights = study.recipes[recipe].records if recipe else block.weights
    weights = dict(sorted(weights.items()))  # as a job reads them from its fingerprint
    world = World(study.world.seed, study.world.eval_percent, study.world.dev_percent)
    write_json_lines(tmp_path / "r", finetuning_records(world, block.count, block.seed, weights))
    assert hashlib.sha256((tmp_path / "r").read_bytes()).hexdigest()[:16] == DEFAULT[recipe]


# ---- the study of doses ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dose():
    return load_study({"extends": "dose.yaml"})


def test_a_dose_takes_the_first_families_of_its_order_and_open_requests_are_a_quarter(dose):
    expected = {"3B": ()} | {
        f"3B-{letter}{n}": order[:n]
        for letter, order in (("a", FIRST_ORDER), ("b", SECOND_ORDER))
        for n in (1, 2, 4, 8)
    }
    expected |= {"3B-ab16": NEVER_SEEN, "3B-seen4": SEEN}
    chosen = {r: dose.recipes[r].records for r in dose.recipes if r.startswith("3B")}
    tasks = chosen.pop("3B-tasks")
    assert tasks == load_study({}).world.finetuning.weights
    assert chosen == {
        recipe: dict.fromkeys(families, 3) | {"open": max(1, len(families))}
        for recipe, families in expected.items()
    }
    assert dose.controls == {r: r.replace("3B", "3A") for r in (*chosen, "3B-tasks")}


def test_doses_differ_in_their_records_alone_and_share_nothing_frozen_with_the_default(dose):
    default = load_study({})
    same = {"records", "train_mask", "max_steps"}
    keys = [recipe.model_dump(exclude=same) for recipe in dose.recipes.values()]
    assert all(k == default.recipes["3B"].model_dump(exclude=same) for k in keys)
    assert len({recipe.max_steps for recipe in dose.recipes.values()}) == 1
    read = dose.finetune.max_steps * dose.finetune.batch_examples
    assert read <= dose.world.finetuning.count * (1 - dose.finetune.heldout_fraction)
    assert dose.evaluation == default.evaluation and dose.world.items == default.world.items
    assert not set(dose.seeds) & set(default.seeds)
    assert dose.world.finetuning.seed != default.world.finetuning.seed


def test_doses_have_as_many_records_and_tokens(dose):
    """Steps and examples of a step are equal, so the mean example decides on the tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("resources/micro/base")

    def tokens(record):
        texts = [alpaca_prompt(record), f" {record['output']}"]
        return sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])) + 2

    counts = {}
    for name, recipe in dose.recipes.items():
        if name.startswith("3B") and name != "3B-tasks":
            records = finetuning_records(WORLD, 3000, 7501, recipe.records)
            counts[name] = sum(map(tokens, records)) / len(records)
            longest = max(map(tokens, records))
            assert longest <= recipe.max_seq_len
    assert max(counts.values()) / min(counts.values()) < 1.03, counts
