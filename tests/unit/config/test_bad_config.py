"""Promises about a bad study: refused by file, line and key, with advice, before any job runs."""

import os
import re
import subprocess
import sys

import pytest

from tests.support.refusals import ROOT, refusal

# {what is wrong: (the file, what its message must hold: the key, its line, what to do)}
OWN = "recipes: {3B: {train_mask: prefill_bidir}}"
VALUES = {
    "masks of all studies": ("masks: [causal]", "masks (", "every study scores under all masks"),
    "name with a space": ("study: My study", "study (", "was expected, such as `my_study`"),
    "name of signs": ("study: '??'", "study (", "a folder's name of a-z, 0-9, _ and -"),
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
    "unknown key of pretraining": (
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
    "path as a name": ("study: ../elsewhere", "study", "such as `elsewhere`"),
    "no seeds": ("seeds: []", "seeds", "at least one", "`seeds: [1]`"),
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
    "no recipes": ("recipes: {}", "recipes", "at least one"),
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
    "published optimizer on several GPUs": (
        "hardware: {gpu: 2}\nfinetune: {micro_batch_examples: 12, optimizer: adafactor_plain}",
        "finetune.optimizer (",
        "adafactor_plain found, but it cannot train weights that 2 GPUs (hardware.gpu) share",
        "sgd, adafactor_bf16 was expected, or one GPU",
    ),
    "another format": ("finetune: {format: publishd}", "finetune.format (", "'published'"),
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
    "stop without its keys": (
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
        "only 8 are trained on",
    ),
    "batch of more than are taken": (
        "finetune: {max_examples: 23}",
        "finetune.batch_examples",
        "of 8000 records (world.finetuning.count) only 23 are trained on",
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
    "task that writes several texts": (
        "evaluation:\n  tasks: [micro_piqa, gsm8k_cot_self_consistency]",
        "evaluation.tasks[1]",
        ":2)",
        "'gsm8k_cot_self_consistency' cannot be tabulated item by item",
        "multiple_choice, or greedy generate_until with exact_match, was expected, "
        "64 texts an item (repeats) found",
        "take another task",
    ),
    "only tasks that write": (
        "evaluation: {tasks: [micro_open]}",
        "evaluation.tasks",
        "only generation tasks found (micro_open)",
        "at least one of multiple choice",
    ),
    "task with numbers of its own": (
        "evaluation: {tasks: [truthfulqa_mc2]}",
        "its own metrics (process_results) found",
    ),
    "group of which some have own metrics": (
        "evaluation: {tasks: [leaderboard]}",
        "its own metrics (process_results) found",
    ),
    "task twice": (
        "evaluation: {tasks: [micro_piqa, micro_piqa]}",
        "task micro_piqa is named twice",
    ),
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
        "write `pins: {owner/model: null}`",
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
    "a task of lm-eval without a pin": (
        "evaluation: {tasks: [sciq]}",
        "pins.allenai/sciq (",
        "not pinned",
    ),
    "a folder without the data of a task": (
        "evaluation: {tasks: [sciq], data_folder: resources}",
        "evaluation.data_folder (",
        "no test split found: resources/allenai/sciq/test-....parquet was expected",
    ),
    "a folder without the configuration of a task": (
        "evaluation: {tasks: [openbookqa], data_folder: ../gone/}",
        "evaluation.data_folder (",
        "no test split found: ../gone/allenai/openbookqa/main/test-....parquet was expected",
    ),
    "examples of another task": (
        "evaluation: {tasks: [micro_piqa], num_fewshot: {piqa: 2}}",
        "evaluation.num_fewshot (",
        "piqa named, but tasks of lm-eval in `tasks` were expected",
    ),
    "examples of the published protocol": (
        f"evaluation: {{tasks: [published_piqa], num_fewshot: {{published_piqa: 2}}}}\n"
        f"pins: {{baber/piqa: '{'1' * 40}'}}",
        "evaluation.num_fewshot (",
        "published_piqa named",
    ),
    "fewer examples than none": (
        "evaluation: {num_fewshot: -1}",
        "evaluation.num_fewshot (",
        "-1 found, a number (0 or more), or {task: number}, was expected",
    ),
    "text for a number of examples": (
        "evaluation: {num_fewshot: {micro_piqa: '2'}}",
        "evaluation.num_fewshot (",
        "a number (0 or more)",
    ),
    "a chat template that the base lacks": (
        "evaluation: {chat_template: true}",
        "evaluation.chat_template (",
        "resources/micro/base has no chat template",
    ),
    "a rehearsal of a task without made-up texts": (
        "base: random\nevaluation: {tasks: [sciq]}",
        "evaluation.tasks (",
        "allenai/sciq found",
        "`evaluation.data_folder`",
    ),
    "finetuning data without a pin": (
        f"instructions: {{data: yahma/alpaca-cleaned, count: 99}}\n{OWN}",
        "pins.yahma/alpaca-cleaned (",
        "`ablation pin FILE`",
    ),
    "families of other records": (
        f"instructions: {{data: a/b, count: 99}}\npins: {{a/b: '{'1' * 40}'}}",
        "recipes.3B-open.records (",
        "3B-open, 3B-no-hellaswag-piqa",
        "`instructions` names other data",
    ),
    "records of an unknown family": (
        "recipes: {3B-x: {train_mask: prefill_bidir, records: {opne: 1}}}",
        "recipes.3B-x.records.opne (",
        "did you mean `open`?",
    ),
    "no record of any family": (
        "recipes: {3B-x: {train_mask: prefill_bidir, records: {open: 0}}}",
        "3B-x.records (",
    ),
    "number for a commit": (f"pins: {{a/b: {'1' * 40}}}", "pins.a/b (", "string"),
    "no repository": ("pins: {alpaca: null}", "pins.alpaca (", "pattern"),
    "no repository of data": (
        f"instructions: {{data: alpaca, count: 99}}\n{OWN}",
        "instructions.data (",
    ),
    "records that are no file": (
        f"instructions: {{data: ../gone/records.jsonl}}\n{OWN}",
        "instructions.data (",
        "'../gone/records.jsonl' found, which is no file or folder",
    ),
    "records that are no file, in a folder below": (
        f"instructions: {{data: data/records.jsonl}}\n{OWN}",
        "instructions.data (",
        "which is no file or folder",
    ),
    "records of no known kind": (
        f"instructions: {{data: README.md}}\n{OWN}",
        "instructions.data (",
        ".parquet, .jsonl, .json file was expected, README.md found",
    ),
    "records named like a data set": (
        f"instructions: {{data: resources/micro}}\n{OWN}",
        "instructions.data (",
        "write ./resources/micro for the one here",
    ),
    "a folder without records": (
        f"instructions: {{data: ./resources/micro}}\n{OWN}",
        "instructions.data (",
        "one data file, or files with `train` in their names, are needed; found: ",
    ),
    "no number of the hub's records": (
        f"instructions: {{data: a/b}}\npins: {{a/b: '{'1' * 40}'}}\n{OWN}",
        "instructions (",
        "no `count` found",
    ),
    "fewer records than a step takes": (
        f"instructions: {{data: a/b, count: 20}}\npins: {{a/b: '{'1' * 40}'}}\n{OWN}",
        "finetune.batch_examples (",
        "of 20 records (instructions.count) only 19",
    ),
    "uneven heads": ("random: {heads: 4, key_value_heads: 3}", "no divisor of heads 4"),
    "base random mistyped": ("base: randm", "did you mean `random`?"),
    "shipped base, other facts": ("world: {seed: 7}", "world.seed", "`base: pretrain`"),
    "shipped base, other split": ("world: {dev_percent: 11}", "world.dev_percent", "made for 10"),
}


def test_examples_without_their_split_are_refused(configs, tmp_path):
    (tmp_path / "allenai/sciq").mkdir(parents=True)
    (tmp_path / "allenai/sciq/test-0.jsonl").write_text("{}")
    study = f"evaluation: {{tasks: [sciq], data_folder: {tmp_path}, num_fewshot: {{sciq: 2}}}}"
    message = refusal(configs, study)
    assert f"no train split found: {tmp_path}/allenai/sciq/train-....parquet was expec" in message


@pytest.mark.parametrize("text, fragments", [(v[0], v[1:]) for v in VALUES.values()], ids=VALUES)
def test_a_study_that_cannot_be_run(configs, text, fragments):
    message = refusal(configs, text)
    assert all(fragment in message for fragment in fragments), message
    assert re.search(r"\(\S+(bad|default)\.yaml:\d+\): ", message), message
    assert len(message.splitlines()) == 2, message  # one problem, reported once


def test_all_problems_come_in_one_message(configs):
    """Those of a file, of keys, of every recipe and of the disk."""
    message = refusal(
        configs,
        "studdy: 1\nseeds: []\nseeds: []\nhardware: {dtype: x}\nbase: nowhere\n"
        "evaluation: {tasks: [nothing_of_ours]}\n"
        "recipes: {3A: {train_mask: x}, 3B: {train_mask: causal, max_steps: 0}}\n",
    )
    problems = ("seeds (", "studdy (", "hardware.dtype (", "base (", "evaluation.tasks[0] (")
    problems += ("recipes.3A.train_mask (", "recipes.3B.max_steps (", "occurs twice")
    assert all(problem in message for problem in problems), message


def test_what_a_nearer_file_took_away_is_no_place(configs):
    message = refusal(configs, "finetune: {stops: {leak: null}}")
    leaky = 1 + (configs / "default.yaml").read_text().split("\n").index(
        "  3B-leaky: {train_mask: full_bidir, stops: {leak: {on_leak: record}}}"
    )
    assert "recipes.3B-leaky.stops.leak.ratio (" in message and f"default.yaml:{leaky}" in message


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


def test_a_folder_with_resources_of_its_own_is_no_place_for_results(tmp_path):
    """Results and resources name each other by relative paths: one without the other is nothing."""
    (tmp_path / "resources").mkdir()
    done = snakemake(ROOT, "--directory", str(tmp_path), "-n", "results/recovery.csv")
    assert done.returncode != 0
    assert f"{tmp_path}/resources is there, where the workflow needs a link" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".snakemake") == ["resources"]
