"""Promises of the table of stages: it agrees with the scripts and with the rules."""

import re
from pathlib import Path

from ablation.vocabulary.stages import GROUPS, STAGES, groups_in, script_of, stages_of

ROOT = Path(__file__).resolve().parents[3]


def test_every_stage_has_a_script_and_every_script_a_stage():
    scripts = {file.stem for file in (ROOT / "workflow/scripts").glob("*.py")}
    without = {"runs", "recovery_named"}  # no stage: no rule depends on what they write
    assert {stage.script for stage in STAGES.values()} == scripts - without
    assert all((ROOT / script_of(name)).is_file() for name in STAGES)


def test_every_stage_is_made_by_a_rule_of_that_name():
    text = "\n".join(file.read_text() for file in (ROOT / "rules").glob("*.smk"))
    rules = set(re.findall(r"^ *(?:use rule \w+ as|rule) (\w+)(?::| with:)", text, re.M))
    rules |= {f"stage{n}_metrics" for n in (1, 2, 4, 5)} | {"figure_curves"}  # defined in loops
    for stage in STAGES.values():
        assert stage.rule_of({"figure": "curves"}) in rules, stage.name


def test_groups_partition_the_stages_in_the_order_of_the_study():
    assert [name for group in GROUPS for name in stages_of(group)] == list(
        dict.fromkeys(name for group in GROUPS for name in STAGES if STAGES[name].group == group)
    )
    assert groups_in(["flips", "base", "unknown"]) == ["base", "figures"]
