"""Promises of what is asked and how an answer is read: strict, numeric, never invalid = invalid."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.bridge.data.answers import MARK, cut_at_stop, exact_match, extract_answer
from ablation.bridge.data.prompts import Question, draft_text, problem_text, problem_with_draft
from ablation.bridge.data.questions import NumberWorld, source_texts, target_texts
from ablation.bridge.evaluation.scores import word_f1
from ablation.config.bridge_blocks import Recipe
from ablation.config.load import load_study
from ablation.config.merging import ConfigError, merge
from ablation.vocabulary.bridge import REGIMES, SPLITS
from tests.support.bridge_tiny import CONFIG, bridge_study


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" #### 18", "18"),
        (" #### 1,234.", "1234"),
        (" #### $18.00\nQ: next #### 7", "18"),
        ("#### Ann Lee ", "ann lee"),
        ("#### -0.0", "0"),
        ("#### +007", "7"),
        ("#### .50", "0.5"),
        ("#### 1e9999999", "1e9999999"),  # a loop of digits, or worse, is text like any other
        ("#### 12345678901234567890123456789012345", "12345678901234567890123456789012345"),
        ("#### ...", "..."),
        ("no mark, last number 18", None),
        ("####", None),
        ("", None),
    ],
)
def test_only_what_follows_the_first_mark_is_an_answer(text, answer):
    assert extract_answer(text) == answer


def test_invalid_is_never_right_and_an_empty_gold_is_an_error():
    assert not exact_match(None, "18")
    assert not exact_match(extract_answer("nothing"), "[invalid]")
    with pytest.raises(ValueError, match="empty"):
        exact_match("18", " ")


@given(st.integers(-(10**9), 10**9))
def test_a_number_is_compared_as_a_number(number):
    assert exact_match(extract_answer(f" #### ${number:,}.0"), str(number))


def test_text_after_a_new_question_is_cut_off():
    assert cut_at_stop("#### 3\nProblem: more #### 4") == "#### 3"
    assert cut_at_stop("#### 3\nQ: more") == "#### 3"


def test_f1_counts_words_as_often_as_they_stand():
    assert word_f1("a b b", "b c") == pytest.approx(0.5)  # the published one took sets
    assert word_f1("", "b") == 0


WORLD = bridge_study().bridge.world


def test_questions_share_nothing_between_splits_and_have_many_answers():
    world = NumberWorld(WORLD)
    for regime in REGIMES:
        by_split = {s: world.make_questions(regime, s, 200) for s in SPLITS}
        asked = [Question.of(r).whole for records in by_split.values() for r in records]
        assert len(set(asked)) == len(asked)
        for records in by_split.values():
            answers = [r["answer"] for r in records]
            assert max(map(answers.count, answers)) < 0.2 * len(answers)


def test_another_seed_of_questions_asks_other_questions_of_the_same_names_and_numbers():
    one, other = (NumberWorld(WORLD, seed) for seed in (1, 2))
    assert (one.people, one.number) == (other.people, other.number)
    assert set(one.stones_of["test"]) != set(other.stones_of["test"])
    for regime in REGIMES:
        asked = [
            {Question.of(r).whole for s in SPLITS for r in world.make_questions(regime, s, 200)}
            for world in (one, other)
        ]
        shared = len(asked[0] & asked[1])
        assert shared == 0 if regime != "enrichment" else shared < 60
        assert one.make_questions(regime, "test", 9) == one.make_questions(regime, "test", 9)


def test_no_training_question_asks_about_a_stone_of_dev_or_test():
    world = NumberWorld(WORLD)
    held = {*world.stones_of["dev"], *world.stones_of["test"]}
    for record in world.make_questions("enrichment", "train", 500):
        assert not held & set(record["question"].split())
    for record in world.make_questions("enrichment", "test", 200):
        assert set(record["question"].split()[2:]) <= set(world.stones_of["test"])


def test_neither_model_reads_an_answered_sum_of_stones_and_the_target_no_stone_s_number():
    from random import Random

    world, stones = NumberWorld(WORLD), set(NumberWorld(WORLD).stones)
    read, learned = source_texts(world, Random(1)), target_texts(world, Random(1))
    for _ in range(500):
        text = "".join(next(read))
        assert "Sum of" not in text or MARK not in text
        assert not stones & set("".join(next(learned)).replace(",", " ").split())


# ---- configuration -------------------------------------------------------------------------------


def refused(over, *parts):
    with pytest.raises(ConfigError) as error:
        load_study({"extends": "bridge.yaml", "bridge": over}, CONFIG)
    assert all(part in str(error.value) for part in parts), error.value


def test_unknown_keys_and_impossible_values_die_at_load():
    refused({"sorce": "x"}, "bridge.sorce", "did you mean `bridge.source`")
    refused({"training": {"wieghts": {}}}, "bridge.training.weights")
    refused({"training": {"max_steps": "many"}}, "bridge.training.max_steps", "integer")
    refused({"recipes": {"a": {"mode": "soft"}}}, "bridge.recipes.a.mode", "soft_only")
    refused({"training": {"translator": {"heads": 5}}}, "no divisor of width")
    refused({"training": {"micro_batch_examples": 5}}, "batch_examples 32 is no multiple of it")
    refused({"training": {"warmup_steps": 450}}, "bridge.training.warmup_steps", "only 450 steps")
    refused({"training": {"log_steps": 475, "save_steps": 475}}, "no loss would be logged")
    refused({"world": {"people": 11}}, "bridge.world.listed", "only 11 people")
    refused(
        {"world": {"test_percent": 85}}, "bridge.world.dev_percent", "nothing is left to train on"
    )
    late = {"stops": {"plateau": {"patience": 7}}}  # looks at 50, 100, ...; 200 counts first
    said = ("bridge.recipes.no_kl.stops", "plateau at step 500 at the earliest", "plateau: null")
    refused({"recipes": {"no_kl": late}}, *said)


@pytest.mark.parametrize(
    ("over", "place"),
    [
        ({"seeds": [101, 102, 101]}, "bridge.seeds"),
        ({"recipes": {"all_fixes": {"soft_tokens": [8, 4, 8]}}}, "bridge.recipes.all_fixes.soft"),
        ({"recipes": {"no_kl": {"regimes": ["compression"] * 2}}}, "bridge.recipes.no_kl.regimes"),
    ],
)
def test_nothing_is_trained_twice(over, place):
    """Two cells of one name would be trained, and then no table could pair their rows."""
    refused(over, place, "is named twice")


def test_two_names_for_one_configuration_are_refused():
    refused({"recipes": {"with_kl": {}, "without": {}}}, "with_kl", "one configuration")


@pytest.mark.parametrize(
    "over",
    [
        {"weights": {"flow": 0.0}},  # a resampler has none
        {"translator": {"steps": 9}},
        {"noise_seeds": 3},
        {"eval_batch": 7},
    ],
)
def test_a_toggle_that_does_nothing_makes_no_ablation(over):
    refused({"recipes": {"plain": {}, "other": over}}, "plain", "other", "one configuration")


def test_a_toggle_of_a_term_that_is_off_makes_no_ablation():
    off = {"weights": {"info_nce": 0.0}}
    other = {"weights": {"info_nce": 0.0, "temperature": 0.5}}
    refused({"recipes": {"a": off, "b": other}}, "b and a", "one configuration")
    free = {"translator": {"kind": "source_free"}}
    wide = {"translator": {"kind": "source_free", "width": 128}, "weights": {"info_nce": 9.0}}
    refused({"recipes": {"a": free, "b": wide}}, "b and a", "one configuration")


def test_what_tables_compare_with_must_be_trained():
    refused({"claims": {"soft_tokens": 3}}, "bridge.claims", "all_fixes", "K = 3")
    refused({"claims": {"context_soft_tokens": 4}}, "bridge.claims", "longer", "K = 4")
    refused({"claims": {"no_fixes": "none"}}, "bridge.claims", "no recipe none is trained")
    refused({"inference": {"recipe": "no_kl"}}, "bridge.inference", "no_kl", "in enrichment")
    alone = {"all_fixes": {"controls": True}, "no_fixes": {"eos": False}}
    refused({"recipes": alone}, "bridge.claims", "no recipe source_free is trained")
    free = {"source_free": {"translator": {"kind": "source_free"}}}
    refused({"recipes": alone | free | {"all_fixes": {}}}, "needs `controls: true`")
    given = {"all_fixes": {"mode": "soft_plus_text"}}
    refused({"recipes": alone | free | given}, "soft_plus_text", "nothing is compressed")


def test_a_bridge_is_compared_with_arms_of_its_own_direction_and_length():
    names = ("all_fixes", "no_fixes", "source_free")
    different = ({"controls": True}, {"eos": False}, {"translator": {"kind": "source_free"}})
    for name in names:
        recipes = dict(zip(names, different, strict=True))
        recipes[name] = recipes[name] | {"swapped": True}
        refused({"recipes": recipes}, "bridge.claims", f"recipe {name} is swapped")
    recipes = dict(zip(names, different, strict=True)) | {"turned": {"swapped": True}}
    asked = {"inference": {"recipe": "turned"}}
    refused({"recipes": recipes} | asked, "bridge.inference", "recipe turned is swapped")
    longer = {"recipes": recipes | {"turned": {"swapped": True, "max_new_tokens": 9}}}
    refused(longer, "bridge.recipes", "answers of turned may have 9 tokens", "alone 7")


def test_shipped_models_know_one_world_and_a_bridge_is_neither_compiled_nor_spread():
    refused({"world": {"stones": 100}}, "bridge.world.stones", "`source: pretrain`")
    load_study(
        {"extends": "bridge.yaml"}
        | {"bridge": {"source": "pretrain", "target": "pretrain", "world": {"stones": 100}}},
        CONFIG,
    )
    with pytest.raises(
        ConfigError, match="hardware.gpu .*2 found, but a cell is trained by one process"
    ):
        load_study({"extends": "bridge.yaml", "hardware": {"gpu": 2}}, CONFIG)
    with pytest.raises(ConfigError, match="hardware.compile .*many different widths"):
        load_study({"extends": "bridge.yaml", "hardware": {"compile": True}}, CONFIG)


TOGGLES = {
    "kl": {"weights": {"kl": 0.0}},
    "info_nce": {"weights": {"info_nce": 0.0}},
    "prompt_alignment": {"weights": {"prompt_alignment": 0.0}},
    "early_stop": {"stops": {"plateau": None}},
    "hygiene": {"eos": False},
    "mode": {"mode": "soft_plus_text"},
    "direction": {"swapped": True},
    "translator": {"translator": {"kind": "diffusion"}},
}


def test_every_toggle_changes_the_configuration_s_hash():
    from ablation.bridge.training.cells import cell_hash

    def hashed(over):
        made = Recipe.model_validate(merge(bridge_study().bridge.training.model_dump(), over))
        return cell_hash(made, "compression", 8, 1)

    found = [hashed(over) for over in ({}, *TOGGLES.values())]
    assert len(set(found)) == len(found)
    plain = bridge_study().bridge.recipes["all_fixes"]
    cells = {cell_hash(plain, r, k, s) for r in REGIMES for k in (1, 2) for s in (1, 2)}
    assert len(cells) == 4 * len(REGIMES)


def test_the_first_study_knows_no_bridge_and_its_schema_holds_both():
    assert load_study({}, CONFIG).bridge is None
    schema = json.loads((CONFIG / "schema.json").read_text())
    assert "bridge" in schema["properties"]


# ---- models of our own ---------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["source", "target"])
def test_a_model_that_fails_its_examination_is_an_error_that_says_what_to_do(tmp_path, role):
    from ablation.bridge.training.pretrain import NotLearned, pretrain

    block = bridge_study().bridge
    short = {"steps": 2, "warmup_steps": 1, "cooldown_steps": 1, "batch_documents": 2}
    recipe = block.pretrain[role].model_copy(update=short | {"attempts": 1})
    with pytest.raises(NotLearned) as error:
        pretrain(block.world, role, recipe, tmp_path / "model")
    for part in (f"the {role} failed", "code 0.00", "0.95", "steps or attempts", "shipped"):
        assert part in str(error.value)
    assert not (tmp_path / "model").exists()


def test_a_cascade_gives_the_target_the_source_s_answer():
    draft = draft_text(" by the sea\n#### The Hague\nProblem: ")
    head = problem_with_draft("Where?", draft)
    assert head == f"{problem_text('Where?')}\nDraft: The Hague"
    assert draft_text(" At sea. ") == "At sea."
