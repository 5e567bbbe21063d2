"""Promises about bad input: refused by file, line and key, with a remedy, before anything runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ablation.alpaca import first_records, read_records
from ablation.config import ConfigError, load_study
from ablation.examples import read_examples
from ablation.provenance import StaleInput, read_json_lines, read_manifest

ROOT = Path(__file__).resolve().parents[2]


def refusal(configs, text):
    """The message for a study whose file is `text`."""
    (configs / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_study({"extends": "bad.yaml"}, configs)
    return str(error.value)


# what is wrong, the file, what the message must say of it (the key, its line, the remedy)
VALUES = {
    "unknown key": ("studdy: x", "studdy", ":1)", "did you mean `study`?"),
    "unknown inner key": ("hardware:\n  thread: 2", "hardware.thread", ":2)", "`hardware.threads`"),
    "key in the wrong block": ("max_steps: 3", "max_steps", "did you mean `finetune.max_steps`?"),
    "mask for all": ("finetune: {train_mask: causal}", "did you mean `recipes.", ".train_mask`?"),
    "unknown key of a recipe": (
        "recipes:\n  3A:\n    train_mask: causal\n    max_step: 1",
        "recipes.3A.max_step (",
        ":4)",
        "did you mean `recipes.3A.max_steps`?",
    ),
    "unknown key of the world": ("world: {sed: 1}", "world.sed", "`world.seed`"),
    "unknown knob of pretraining": (
        "world: {pretrain: {check: {form_step: 1}}}",
        "world.pretrain.check.form_step",
        "`world.pretrain.check.from_step`",
    ),
    "text for a number": ("hardware: {threads: two}", "hardware.threads", "integer", "'two' found"),
    "quoted number": ("hardware: {threads: '2'}", "hardware.threads", "without quotes"),
    "truth for a number": ("hardware: {threads: yes}", "hardware.threads", "True found"),
    "fraction for a count": ("finetune: {max_steps: 2.5}", "finetune.max_steps", "integer"),
    "number for a text": ("study: 3", "study", "string"),
    "text for a truth": ("keep_states: 'no'", "keep_states", "boolean", "without quotes"),
    "nothing for a block": ("hardware:", "hardware", "None found", "leave the key out"),
    "list for a block": ("evaluation: [a]", "evaluation", "a mapping"),
    "text for a list": ("seeds: 21", "seeds", "list"),
    "not a number": ("finetune: {learning_rate: .nan}", "finetune.learning_rate", "finite"),
    "infinite": ("finetune: {max_grad_norm: .inf}", "finetune.max_grad_norm", "finite"),
    "path as a name": ("study: ../elsewhere", "study", "pattern"),
    "no seeds": ("seeds: []", "seeds", "at least 1"),
    "seed twice": ("seeds: [4, 7, 4]", "seeds", "seed 4 is named twice"),
    "truth as a seed": ("seeds: [1, true]", "seeds[1]", "True found"),
    "text as a seed": ("seeds: ['1']", "seeds[0]", "without quotes"),
    "negative seed": ("seeds: [-1]", "seeds[0]", "greater than or equal to 0"),
    "seed that numpy refuses": ("seeds: [4294967296]", "seeds[0]", "less than 4294967296"),
    "unknown precision": ("hardware: {dtype: bfloat61}", "did you mean `bfloat16`?"),
    "unknown kernel": ("hardware: {attention: flash}", "hardware.attention", "'eager'"),
    "kernel that cannot train": (
        "hardware: {attention: flex_attention}",
        "hardware.attention",
        "cannot train on a CPU",
        "take sdpa",
    ),
    "no recipes": ("recipes: {}", "recipes", "at least 1"),
    "unknown recipe": ("recipes:\n  3C: {train_mask: causal}", "recipes.3C (", ":2)", "'3B-leaky'"),
    "recipe without a mask": ("recipes: {3A: {}}", "recipes.3A.train_mask", "missing"),
    "empty recipe": ("recipes:\n  3A:", "recipes.3A (", "a mapping"),
    "unknown mask": ("recipes: {3A: {train_mask: prefill}}", "recipes.3A.train_mask", "full_bidir"),
    "no steps": ("finetune: {max_steps: 0}", "finetune.max_steps", "greater than or equal to 1"),
    "uneven micro-batches": (
        "finetune: {batch_examples: 24, micro_batch_examples: 5}",
        "finetune.micro_batch_examples",
        "batch_examples 24 is no multiple",
    ),
    "batch that GPUs cannot share": (
        "hardware: {gpu: 2}\nfinetune: {batch_examples: 24, micro_batch_examples: 24}",
        "finetune.batch_examples (",
        ":2)",
        "2 GPUs (hardware.gpu) cannot share in micro-batches of 24",
        "give micro_batch_examples 12",
    ),
    "batch of no multiple of GPUs": (
        "hardware: {gpu: 5}\nfinetune: {micro_batch_examples: 8}",
        "finetune.batch_examples",
        "give a multiple of 5",
    ),
    "batch of a recipe that GPUs cannot share": (
        "hardware: {gpu: 2}\nfinetune: {micro_batch_examples: 4}\n"
        "recipes: {3A: {train_mask: causal, batch_examples: 4}}",
        "recipes.3A.batch_examples (",
        ":3)",
        "give micro_batch_examples 2",
    ),
    "optimizer that cannot be shared out": (
        "hardware: {gpu: 2}\nfinetune: {micro_batch_examples: 12, optimizer: adafactor_bf16}",
        "finetune.optimizer (",
        "adafactor_bf16 found, but 2 GPUs",
        "adafactor, sgd was expected, or one GPU",
    ),
    "saves between log points": (
        "finetune: {save_steps: 15}",
        "finetune.save_steps",
        "no multiple of log_steps 10",
    ),
    "recipe's log points": (
        "recipes: {3A: {train_mask: causal, log_steps: 7}}",
        "recipes.3A.save_steps",
        "default.yaml:",
        "no multiple of log_steps 7",
    ),
    "warm-up beyond the end": (
        "finetune: {max_steps: 20, eval_steps: 20, stops: {no_learning: null}}",
        "finetune.warmup_steps",
        "default.yaml:",
        "only 20 steps",
    ),
    "unknown optimizer": (
        "finetune: {optimizer: adamw_torch_fussed}",
        "finetune.optimizer",
        "did you mean `adamw_torch_fused`?",
    ),
    "optimizer of another package": ("finetune: {optimizer: lion_8bit}", "finetune.optimizer"),
    "unknown schedule": ("finetune: {schedule: lineal}", "did you mean `linear`?"),
    "everything held out": ("finetune: {heldout_fraction: 1.0}", "finetune.heldout_fraction"),
    "stop without its knobs": (
        "finetune: {stops: {plateau: {patience: 1, min_steps: 1}}}",
        "finetune.stops.plateau.min_delta",
        "missing",
    ),
    "stop after the end": (
        "finetune: {stops: {plateau: {patience: 1, min_delta: 0, min_steps: 300}}}",
        "finetune.stops",
        "plateau at step 300 at the earliest",
        "beyond max_steps 250",
        "or plateau: null",
    ),
    "stop too patient for the end": (
        "finetune: {stops: {plateau: {patience: 5, min_delta: 0, min_steps: 0}}}",
        "plateau at step 300 at the earliest",
        "or plateau: null",
    ),
    "stop judged after the end": (
        "finetune: {stops: {no_learning: {after_steps: 251}}}",
        "finetune.stops",
        "no_learning at step 260 at the earliest",
        "or no_learning: null",
    ),
    "no probe before the end": (
        "finetune: {eval_steps: 251}",
        "finetune.stops",
        "leak at step 251 at the earliest",
        "or leak: null",
    ),
    "no loss before the end": (
        "finetune: {log_steps: 300, save_steps: 300}",
        "finetune.log_steps",
        "beyond max_steps 250",
        "no loss would be logged",
    ),
    "batch of more than all": (
        "finetune: {batch_examples: 7848}",
        "finetune.batch_examples",
        "of 8000 records (world.finetuning.count) only 7840",
    ),
    "batch of more than all, in a recipe": (
        "recipes: {3A: {train_mask: causal, heldout_fraction: 0.999}}",
        "recipes.3A.batch_examples",
        "only 8 are not held out",
    ),
    "control under another mask": (
        "recipes:\n  3A:\n    train_mask: prefill_bidir",
        "recipes.3A.train_mask (",
        ":3)",
        "trains under causal",
        "take the recipe of that mask",
    ),
    "leaky recipe that does not leak": (
        "recipes: {3B-leaky: {train_mask: causal}}",
        "recipes.3B-leaky.train_mask (",
        "trains under full_bidir",
    ),
    "prefix-LM under another mask": (
        "recipes: {3B: {train_mask: full_bidir}}",
        "trains under prefill_bidir",
    ),
    "long run under another mask": (
        "recipes: {5C: {train_mask: causal}}",
        "recipes.5C.train_mask (",
        "trains under prefill_bidir",
    ),
    "more tokens than the base reads": (
        "finetune: {max_seq_len: 513}",
        "finetune.max_seq_len",
        "at most 512 tokens",
    ),
    "unknown task": (
        "evaluation:\n  tasks: [micro_piqa, micro_hellswag]",
        "evaluation.tasks[1]",
        ":2)",
        "did you mean `micro_hellaswag`?",
    ),
    "unknown task of lm-eval": ("evaluation: {tasks: [hellaswagg]}", "did you mean `hellaswag`?"),
    "task that writes": (
        "evaluation:\n  tasks: [micro_piqa, gsm8k]",
        "evaluation.tasks[1]",
        ":2)",
        "'gsm8k' cannot be tabulated item by item",
        "multiple_choice was expected, generate_until found",
        "take another task",
    ),
    "task with numbers of its own": (
        "evaluation: {tasks: [truthfulqa_mc2]}",
        "its own metrics (process_results) found",
    ),
    "group of which some write": ("evaluation: {tasks: [leaderboard]}", "generate_until found"),
    "task twice": ("evaluation: {tasks: [swag, swag]}", "task swag is named twice"),
    "unknown metric": ("evaluation: {metric: acc_nrm}", "did you mean `acc_norm`?"),
    "forward smaller than a row": (
        "evaluation: {row_tokens: 8192}",
        "evaluation.batch_tokens",
        "less than one row (row_tokens 8192)",
    ),
    "certain intervals": ("statistics: {confidence: 1}", "statistics.confidence", "less than 1"),
    "nothing to train on": (
        "base: pretrain\nworld: {eval_percent: 60, dev_percent: 40}",
        "world.dev_percent",
        "below 100",
    ),
    "unknown kind of text": (
        "world: {pretrain: {documents: {micro_piqqa: 2}}}",
        "world.pretrain.documents.micro_piqqa",
        "did you mean `micro_piqa`?",
    ),
    "unknown kind of record": ("world: {finetuning: {weights: {opn: 2}}}", "did you mean `open`?"),
    "no weight at all": (
        "world: {finetuning: {weights: {micro_hellaswag: 0, micro_piqa: 0, micro_arc_easy: 0, "
        "micro_arc_challenge: 0, micro_winogrande: 0, open: 0}}}",
        "world.finetuning.weights",
        "must be more than 0",
    ),
    "primer that never fades": (
        "world: {pretrain: {primer: {faded_at: 300}}}",
        "world.pretrain.primer.faded_at",
        "after alone_until 300",
    ),
    "no look in time": (
        "world: {pretrain: {check: {from_step: 4000}}}",
        "world.pretrain.check",
        "nothing could ever count as learned",
    ),
    "odd head": ("world: {pretrain: {model: {head_dim: 63}}}", "head_dim", "multiple of 2"),
    "vocabulary below bytes": (
        "world: {pretrain: {tokenizer: {vocabulary: 256}}}",
        "world.pretrain.tokenizer.vocabulary",
    ),
    "base mistyped": ("base: shiped", "base (", "did you mean `shipped`?"),
    "base without a model": ("base: docs", "docs holds no config.json", "the folder of a"),
    "hub model that is not named in pins": (
        "base: owner/model",
        "base (",
        "owner/model is no folder",
        "hub model that is named in `pins`",
    ),
    "hub model without a commit": (
        "base: owner/model\npins:\n  owner/model: null",
        "pins.owner/model (",
        ":3)",
        "not pinned",
        "the model may change on the hub",
        "`ablation pin FILE`",
    ),
    "branch for a commit": (
        "base: owner/model\npins:\n  owner/model: main",
        "pins.owner/model (",
        ":3)",
        "`main` found",
        "40 hexadecimal digits",
    ),
    "benchmark without a pin": (
        "evaluation: {tasks: [published_arc_easy, arc_challenge]}",
        "pins.allenai/ai2_arc (",
        "not pinned",
        "the dataset may change",
    ),
    "finetuning data without a pin": (
        "instructions: {data: yahma/alpaca-cleaned, count: 99}",
        "pins.yahma/alpaca-cleaned (",
        "`ablation pin FILE`",
    ),
    "number for a commit": (f"pins: {{a/b: {'1' * 40}}}", "pins.a/b (", "string"),
    "no repository": ("pins: {alpaca: null}", "pins.alpaca (", "pattern"),
    "no repository of data": ("instructions: {data: alpaca, count: 99}", "instructions.data ("),
    "fewer records than a step takes": (
        f"instructions: {{data: a/b, count: 20}}\npins: {{a/b: '{'1' * 40}'}}",
        "finetune.batch_examples (",
        "of 20 records (instructions.count) only 19",
    ),
    "uneven heads": ("random: {heads: 4, key_value_heads: 3}", "no divisor of heads 4"),
    "base random mistyped": ("base: randm", "did you mean `random`?"),
    "shipped base, other facts": ("world: {seed: 7}", "world.seed", "`base: pretrain`"),
    "shipped base, other split": ("world: {dev_percent: 11}", "world.dev_percent", "made for 10"),
}


@pytest.mark.parametrize("text, fragments", [(v[0], v[1:]) for v in VALUES.values()], ids=VALUES)
def test_a_study_that_cannot_be_run(configs, text, fragments):
    message = refusal(configs, text)
    assert all(fragment in message for fragment in fragments), message
    assert re.search(r"\(\S+(bad|default)\.yaml:\d+\): ", message), message
    assert len(message.splitlines()) == 2, message  # one fault, told once


FILES = {
    "broken YAML": ("study: a\nhardware: {gpu: 1\n", "bad.yaml:3", "no valid YAML"),
    "tab": ("hardware:\n\tgpu: 1", "bad.yaml:2", "with spaces, not with tabs"),
    "list": ("- study", "bad.yaml:1", "holds a list", "`key: value` lines"),
    "sentence": ("study", "bad.yaml:1", "holds 'study'"),
    "two documents": ("study: a\n---\nstudy: b", "bad.yaml:2", "no valid YAML"),
    "object": ("study: !!python/name:os.system x", "bad.yaml:1", "no valid YAML"),
    "date that is none": ("study: 2024-13-40", "bad.yaml", "month"),
    "circle without end": ("world: &w {items: *w}", "bad.yaml"),
    "key twice": (
        "finetune:\n  max_steps: 50\n  log_steps: 10\n  max_steps: 60",
        "finetune.max_steps",
        "bad.yaml:4",
        "first at",
        "bad.yaml:2",
        "remove one",
    ),
    "block twice": ("seeds: [1]\nseeds: [2]", "seeds", "bad.yaml:2", "stands twice"),
    "extends nothing": ("extends: nowhere.yaml", "bad.yaml:1", "nowhere.yaml was not found"),
    "extends itself": ("study: a\nextends: bad.yaml", "bad.yaml:2", "in a circle"),
}


@pytest.mark.parametrize("text, fragments", [(v[0], v[1:]) for v in FILES.values()], ids=FILES)
def test_a_file_that_cannot_be_read(configs, text, fragments):
    message = refusal(configs, text)
    assert all(fragment in message for fragment in fragments), message


def test_bytes_that_are_no_text(configs):
    (configs / "bad.yaml").write_bytes(b"study: \xff")
    with pytest.raises(ConfigError, match=r"bad\.yaml: no YAML in UTF-8"):
        load_study({"extends": "bad.yaml"}, configs)


def test_all_faults_come_in_one_message(configs):
    """Those of a file, of keys, of every recipe and of the disk."""
    message = refusal(
        configs,
        "studdy: 1\nseeds: []\nseeds: []\nhardware: {dtype: x}\nbase: nowhere\n"
        "evaluation: {tasks: [nothing_of_ours]}\n"
        "recipes: {3A: {train_mask: x}, 3B: {train_mask: causal, max_steps: 0}}\n",
    )
    faults = ("seeds (", "studdy (", "hardware.dtype (", "base (", "evaluation.tasks[0] (")
    faults += ("recipes.3A.train_mask (", "recipes.3B.max_steps (", "stands twice")
    assert all(fault in message for fault in faults), message


def test_a_fault_is_told_where_it_stands_in_a_chain_of_files(configs):
    (configs / "far.yaml").write_text("\n\nhardware: {gpus: 1}\n")
    (configs / "near.yaml").write_text("extends: far.yaml\nfinetune:\n  lr_schedule: x\n")
    (configs / "a.yaml").write_text("extends: b.yaml")
    (configs / "b.yaml").write_text("\nextends: a.yaml")
    with pytest.raises(ConfigError) as error:
        load_study({"extends": "near.yaml", "seed": "3"}, configs)
    lines = str(error.value).splitlines()
    assert any("hardware.gpus" in line and "far.yaml:3" in line for line in lines)
    assert any("finetune.lr_schedule" in line and "near.yaml:3" in line for line in lines)
    assert any("seed (--configfile/--config)" in line for line in lines)
    with pytest.raises(ConfigError, match=r"b\.yaml:2: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load_study({"extends": "a.yaml"}, configs)


def test_what_a_nearer_file_took_away_is_no_place(configs):
    message = refusal(configs, "finetune: {stops: {leak: null}}")
    leaky = 1 + (configs / "default.yaml").read_text().split("\n").index(
        "  3B-leaky: {train_mask: full_bidir, stops: {leak: {on_leak: record}}}"
    )
    assert "recipes.3B-leaky.stops.leak.ratio (" in message and f"default.yaml:{leaky}" in message


def test_a_fault_of_a_config_file_is_told_by_its_line(configs):
    """Snakemake hands over one mapping; the files given to --configfile say where it stands."""
    file = configs / "mine.yaml"
    file.write_text("study: mine\nhardware: {gpu: -1}\nstudy: mine\n")
    merged = yaml.safe_load(file.read_text()) | {"seeds": ["1", "x"]}
    with pytest.raises(ConfigError) as error:
        load_study(merged, configs, [file, configs / "left at home.yaml"])
    message = str(error.value)
    assert f"hardware.gpu ({file}:2)" in message and f"study ({file}:3): stands twice" in message
    assert "seeds[1] (--configfile/--config): 'x' found" in message and "seeds[0]" not in message


# ---- data ----------------------------------------------------------------------------------------

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
    "half a character": ('{"instruction": "a", "output": "\\ud800"}', "line 1", "`output`"),
    "empty file": ("", "no record", "one {instruction, input, output} a line"),
    "blank lines only": ("\n\n", "no record"),
}


@pytest.mark.parametrize("text, fragments", [(v[0], v[1:]) for v in RECORDS.values()], ids=RECORDS)
def test_data_that_cannot_be_trained_on(tmp_path, text, fragments):
    file = tmp_path / "bad.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        read_examples(file, None, 64, 0.1, seed=1)  # refused before anything is tokenized
    assert all(part in str(error.value) for part in (str(file), *fragments)), error.value


def test_a_data_set_gives_its_first_records_or_says_what_is_wrong_with_it():
    good = {"instruction": "Say red.", "output": "red", "text": "of no use"}
    plain = {"instruction": "Say red.", "input": "", "output": "red"}
    assert first_records([good, good | {"input": None}, {}], 2, "o/d") == [plain, plain]
    with pytest.raises(ValueError, match="o/d: 3 records are asked for, it has 2"):
        first_records([good, good], 3, "o/d")
    for bad, fault in (
        ({"instruction": "a"}, "`output` is missing"),
        (good | {"output": 3}, "text"),
    ):
        with pytest.raises(ValueError, match=f"o/d, record 2: .*{fault}"):
            first_records([good, bad], 2, "o/d")


def test_data_in_another_encoding(tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(
        GOOD.encode() + GOOD.replace("red", "gr\xfcn").encode("cp1252")
    )
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2: .*utf-8"):
        read_records(tmp_path / "bad.jsonl")


def test_data_from_other_machines_are_read(tmp_path):
    """A byte-order mark, DOS lines, no last newline, and line separators inside a text."""
    text = GOOD.replace("red.", "a\u2028b\u2029c\x85d\x0be".replace("\x0b", "\\u000b"))
    (tmp_path / "odd.jsonl").write_bytes(
        ("\ufeff" + text + GOOD.strip()).replace("\n", "\r\n").encode()
    )
    first, second = read_records(tmp_path / "odd.jsonl")
    assert first["instruction"] == "Say a\u2028b\u2029c\x85d\x0be" and second["output"] == "red"


def test_what_is_written_is_read_again(tmp_path):
    from ablation.provenance import write_json_lines

    records = [{"a": "x\u2028y\nz", "b": [1, None]}, {}, {"ü": "\ufeff"}]
    write_json_lines(tmp_path / "a.jsonl", records)
    assert read_json_lines(tmp_path / "a.jsonl") == records


# ---- nothing that was there is lost --------------------------------------------------------------


def snakemake(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )


def test_a_refused_study_starts_nothing_and_loses_nothing(tmp_path):
    for name in ("Snakefile", "rules", "config"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("results/recovery.csv", "results/micro/stage1_baseline/metrics.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("paid for")
    before = sorted(p for p in tmp_path.rglob("*") if ".snakemake" not in p.parts)
    wrong = ("--config", "hardware={gpu: many}", "studdy=1")
    done = snakemake(tmp_path, "--forceall", "all", *wrong)
    assert done.returncode != 0
    assert "hardware.gpu (--configfile/--config): 'many' found" in done.stderr
    assert "studdy (--configfile/--config): unknown key, did you mean `study`?" in done.stderr
    assert sorted(p for p in tmp_path.rglob("*") if ".snakemake" not in p.parts) == before
    assert (tmp_path / "results/recovery.csv").read_text() == "paid for"


def test_another_working_directory(tmp_path):
    """Results and resources name each other by relative paths: one without the other is nothing."""
    done = snakemake(ROOT, "--directory", str(tmp_path), "-n", "results/recovery.csv")
    assert done.returncode != 0
    assert f"{tmp_path} is no place for results" in done.stdout  # a dry run tells there
    assert "without --directory" in done.stdout


# ---- task files ----------------------------------------------------------------------------------

TASK_FILES = {
    "group": (
        "mine.yaml",
        "group: mine\ntask: [micro_piqa]",
        "mine.yaml has `group: mine`",
        "name its members in evaluation.tasks",
    ),
    "tag": ("mine.yaml", "task: mine\ntag: ours", "mine.yaml has `tag: ours`", "remove it"),
    "include": (
        "mine.yaml",
        "task: mine\ninclude: micro_piqa.yaml",
        "has `include: micro_piqa.yaml`",
        "copy the included lines into it",
    ),
    "name of another task": (
        "a.yaml",
        "task: micro_piqa",
        "a.yaml says `task: micro_piqa`, `task: a` was expected",
        "rename one of them",
    ),
    "quoted name of lm-eval's": ("a.yaml", 'task: "swag"', "`task: swag`, `task: a` was expected"),
    "no name": ("a.yaml", "output_type: multiple_choice", "`task: None`, `task: a` was expected"),
    "list": ("a.yaml", "- task: a", "a.yaml is no task in YAML", "mend or remove it"),
    "broken YAML": ("swag.yaml", "task: swag\ndoc_to_text: {", "swag.yaml is no task in YAML"),
}


@pytest.mark.parametrize(
    "name, text, said", [(n, t, said) for n, t, *said in TASK_FILES.values()], ids=TASK_FILES
)
def test_a_task_file_whose_text_nobody_would_hash(configs, name, text, said):
    (configs / "tasks" / name).write_text(text)
    message = refusal(configs, "study: a")
    assert all(part in message for part in ("evaluation.tasks (", *said)), message
    assert len(message.splitlines()) == 2, message


@pytest.mark.parametrize(
    "text, found",
    [
        ("task: mine", "generate_until"),  # lm-eval's default
        ("task: mine\noutput_type: loglikelihood", "loglikelihood"),
        (
            "task: mine\noutput_type: multiple_choice\nprocess_results: !function utils.f",
            "process_results",
        ),
    ],
)
def test_a_task_of_ours_that_cannot_be_scored(configs, text, found):
    (configs / "tasks/mine.yaml").write_text(text)
    assert "evaluation.tasks" not in str(load_study({}, configs))  # not asked for
    message = refusal(configs, "evaluation: {tasks: [mine]}")
    assert "evaluation.tasks[0]" in message and found in message, message


# ---- checkpoints ---------------------------------------------------------------------------------


def cut(file, share=0.5):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])


def sharded(folder, *shards):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = {"weight_map": {f"w{n}": shard for n, shard in enumerate(shards)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# what happened to the folder of a checkpoint, and what must be said of it
CHECKPOINTS = {
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "holds neither model.safetensors nor model.safetensors.index.json",
    ),
    "weights as pickles": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "holds neither model.safetensors nor",
    ),
    "empty weights": (
        lambda f: cut(f / "model.safetensors", 0),
        "model.safetensors holds no whole",
    ),
    "weights cut off": (lambda f: cut(f / "model.safetensors"), "model.safetensors holds no whole"),
    "a pointer to weights": (
        lambda f: (f / "model.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1"
        ),
        "model.safetensors holds no whole",
    ),
    "a shard missing": (
        lambda f: sharded(f, "a.safetensors", "b.safetensors"),
        "b.safetensors is missing, but model.safetensors.index.json names it",
    ),
    "a shard cut off": (
        lambda f: (sharded(f, "a.safetensors"), cut(f / "a.safetensors")),
        "a.safetensors holds no whole",
    ),
    "index without shards": (sharded, "index.json names no weights"),
    "index cut off": (
        lambda f: (sharded(f, "a.safetensors"), cut(f / "model.safetensors.index.json")),
        "model.safetensors.index.json is no JSON",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer"),
    "tokenizer cut off": (lambda f: cut(f / "tokenizer.json"), "tokenizer.json is no JSON"),
    "configuration cut off": (lambda f: cut(f / "config.json"), "config.json is no JSON"),
    "configuration a list": (
        lambda f: (f / "config.json").write_text("[]"),
        "holds no JSON object",
    ),
}


@pytest.mark.parametrize("harm, said", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_that_is_not_whole(configs, harm, said):
    folder = configs / "checkpoint"
    shutil.copytree(ROOT / "resources/micro/base", folder)
    load_study({"base": str(folder)}, configs)
    harm(folder)
    message = refusal(configs, f"base: {folder}")
    assert "base (" in message and said in message and "fetch it again" in message, message
    assert len(message.splitlines()) == 2, message


def test_a_checkpoint_in_shards_is_whole(configs):
    shutil.copytree(ROOT / "resources/micro/base", configs / "checkpoint")
    sharded(configs / "checkpoint", "a.safetensors", "a.safetensors")
    load_study({"base": str(configs / "checkpoint")}, configs)


# ---- manifests -----------------------------------------------------------------------------------

STAMP = {"stamp": {"hash": "abc", "upstream": {}}}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "",
        "[]",
        "3",
        "null",
        "{}",
        json.dumps(STAMP),
        '{"stamp": [], "inputs": 1, "outputs": 2}',
    ]
    + [b"\xff"],
)
def test_a_manifest_that_is_none(tmp_path, text):
    file = tmp_path / "manifest.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StaleInput) as error:
        read_manifest(file, "abc")
    assert f"{file} is no manifest" in str(error.value) and "make it again: snakemake" in str(
        error.value
    )
