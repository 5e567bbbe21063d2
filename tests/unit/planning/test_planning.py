"""Promises of `ablation plan`: the published formula, every overhead, no dollar without a yes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.cli.main import main
from ablation.config.load import load_study
from ablation.planning import dry_run, prices
from ablation.planning import estimate as estimates
from ablation.planning.estimate import (
    NotAllowed,
    Offer,
    Overheads,
    Rates,
    Work,
    allow_spending,
    efficiency,
    estimate,
    items_of,
    multiplied,
    plan,
    scoring_work,
    training_work,
)

ROOT = Path(__file__).resolve().parents[3]
MARKET = prices.Market.read(ROOT / "resources/planning/offers.json")
NOTHING = Overheads(startup=0, setup=0, job=0, base_gb=0, checkpoint_gb=0, state_gb=0)


def offer(gpu="RTX_3090", gpus=1, dollars=1.0):
    known = MARKET.gpus[gpu]
    return Offer(gpu, gpus, dollars, known["speed"], known["memory_mb"], "test")


# ---- the published planner -----------------------------------------------------------------------

# 1,200 steps of 3.318 s (causal) and 3.908 s (bidirectional) on one RTX 3090, ten minutes of
# start-up a run. Setup: hours of either, dollars of both at one dollar an hour.
PUBLISHED = {
    "1x RTX_3090": (1.272667, 1.469333, 2.742000),
    "1x RTX_4090": (0.857917, 0.980833, 1.838750),
    "1x A100_SXM4": (0.719667, 0.818000, 1.537667),
    "8x H100_PCIE": (0.222055, 0.231904, 0.453960),
    "8x H100_SXM": (0.210978, 0.218857, 0.429834),
    "8x H100_NVL": (0.213310, 0.221604, 0.434913),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_six_published_setups_by_the_published_formula(name):
    causal, bidir, dollars = PUBLISHED[name]
    gpus, gpu = int(name[0]), name.partition(" ")[2]
    over = Overheads(startup=600, setup=0, base_gb=0)
    pair = [Work(m, m, training=1200 * s) for m, s in (("causal", 3.318), ("bidir", 3.908))]
    both = estimate(pair, offer(gpu, gpus), 2, MARKET.scaling, over)
    assert both.hours == pytest.approx(bidir, abs=1e-6)  # side by side: the longer one
    assert both.dollars == pytest.approx(dollars, abs=2e-6)
    alone = estimate(pair[:1], offer(gpu, gpus), 2, MARKET.scaling, over)
    assert (alone.hours, alone.machines) == (pytest.approx(causal, abs=1e-6), 1)


def test_speeds_and_efficiencies_are_the_published_ones():
    speeds = {gpu: known["speed"] for gpu, known in MARKET.gpus.items()}
    assert speeds == {
        "RTX_3090": 1.0,
        "RTX_4090": 1.6,
        "A100_SXM4": 2.0,
        "H100_PCIE": 3.2,
        "H100_NVL": 3.8,
        "H100_SXM": 4.0,
    }
    shares = MARKET.scaling.training
    assert shares == {1: 1.0, 2: 0.9, 4: 0.85, 8: 0.78}
    assert [efficiency(n, shares) for n in (1, 2, 3, 5, 8)] == [1, 0.9, 0.85, 0.78, 0.78]
    for gpus in (0, 9):
        with pytest.raises(ValueError, match="an efficiency is known for 1, 2, 4, 8"):
            efficiency(gpus, shares)


# ---- identities --------------------------------------------------------------------------------

seconds = st.floats(0, 1e5)
WORKS = st.lists(
    st.builds(
        Work,
        name=st.just("job"),
        chain=st.sampled_from("abcdef"),
        training=seconds,
        scoring=seconds,
        fixed=seconds,
    ),
    min_size=1,
    max_size=12,
)
OFFERS = st.builds(
    offer, st.sampled_from(sorted(MARKET.gpus)), st.sampled_from(prices.COUNTS), st.floats(0.01, 50)
)


@given(WORKS, OFFERS, st.integers(1, 8))
def test_dollars_are_all_seconds_of_all_machines(works, one, machines):
    over = Overheads()
    found = estimate(works, one, machines, MARKET.scaling, over)
    busy = sum(w.seconds(one, MARKET.scaling) for w in works) + found.machines * over.machine()
    assert found.dollars == pytest.approx(busy / 3600 * one.dollars_per_hour)
    assert found.machines <= min(machines, len({w.chain for w in works}))
    assert busy / 3600 / found.machines <= found.hours * (1 + 1e-9)
    longest = max(w.seconds(one, MARKET.scaling) for w in works)
    assert found.hours * 3600 >= longest + over.machine() - 1e-6


@given(WORKS, OFFERS, st.integers(1, 7))
def test_another_machine_is_never_slower_and_never_cheaper(works, one, machines):
    few, more = (
        estimate(works, one, n, MARKET.scaling, Overheads()) for n in (machines, machines + 1)
    )
    assert more.hours <= few.hours * (1 + 1e-9)
    assert more.dollars >= few.dollars * (1 - 1e-9)


@given(WORKS, st.sampled_from(sorted(MARKET.gpus)))
def test_more_gpus_are_faster_but_cost_more(works, gpu):
    found = [
        estimate(works, o, 1, MARKET.scaling, NOTHING)
        for o in multiplied(offer(gpu), prices.COUNTS)
    ]
    for few, more in zip(found, found[1:], strict=False):
        assert more.hours <= few.hours * (1 + 1e-9)
        assert more.dollars >= few.dollars * (1 - 1e-9)


def test_no_work_costs_nothing_and_no_machine_is_an_error():
    assert estimate([], offer(), 3, MARKET.scaling, Overheads()).dollars == 0
    with pytest.raises(ValueError, match="at least one"):
        estimate([], offer(), 0, MARKET.scaling, Overheads())


# ---- what a job takes ----------------------------------------------------------------------------

RATES = Rates("H100_SXM", 0.16, lone_step_seconds=3.2, items_per_second=400, source="test")
STUDY = load_study({}, ROOT / "config")
STEPS = {"max_steps": 100, "batch_examples": 16, "eval_steps": 50, "eval_samples": 352}
RECIPE = STUDY.finetune.model_copy(update=STEPS | {"save_steps": 20})


def test_a_training_counts_steps_evaluations_saves_and_the_way_home():
    work = training_work("t", "c", RECIPE, RATES, 4.0, Overheads())
    # 100 steps of 0.16 s; 3 looks at 352 + 128 losses, a third of 0.01 s each; speed 4
    assert work.training == pytest.approx((16 + 4.8) * 4)
    # a minute, 5 states of 21 GB at 1 GB/s, 7 GB at 500 Mbit/s
    assert work.fixed == pytest.approx(60 + 105 + 112)
    twice = training_work(
        "t", "c", RECIPE.model_copy(update={"batch_examples": 32}), RATES, 4.0, Overheads()
    )
    assert twice.training == pytest.approx((32 + 4.8) * 4)
    lone = RECIPE.model_copy(update={"micro_batch_examples": 1})
    slow = training_work("t", "c", lone, RATES, 4.0, Overheads())
    assert slow.training == pytest.approx(20 * work.training)


def test_scoring_counts_items_and_masks_and_uses_one_gpu():
    tasks = ["piqa", "published_piqa", "micro_piqa"]
    evaluation = STUDY.evaluation.model_copy(update={"tasks": tasks, "limit": None})
    work = scoring_work(
        "s", "c", evaluation, ["causal", "full_bidir"], RATES, 4.0, Overheads(), 300
    )
    assert work.scoring == pytest.approx((1838 + 500 + 300) * 2 / 400 * 4)
    one, eight = (work.seconds(offer("H100_SXM", n), MARKET.scaling) for n in (1, 8))
    assert one == eight == pytest.approx(60 + 2638 * 2 / 400)
    shared = replace(work, cards=4)  # of eight GPUs four score, at 85 % of four times the speed
    four = shared.seconds(offer("H100_SXM", 8), MARKET.scaling)
    assert four == pytest.approx(60 + 2638 * 2 / 400 / 3.4)
    assert shared.seconds(offer("H100_SXM", 1), MARKET.scaling) == one


@pytest.mark.parametrize(
    "task, limit, items",
    [
        ("arc_challenge", None, 1172),
        ("published_arc_challenge", None, 299),
        ("published_hellaswag", None, 500),
        ("published_hellaswag", 50, 50),
        ("hellaswag", 50, 50),
        ("micro_piqa", None, 12),
        ("swag", None, 2000),  # not known here
    ],
)
def test_items_of_a_task(task, limit, items):
    assert items_of(task, limit, micro_items=12) == items


# ---- plans ---------------------------------------------------------------------------------------


def test_only_machines_that_fit_are_offered_cheapest_first():
    dear, cheap = offer("H100_SXM", 1, 9.0), offer("H100_SXM", 1, 2.0)
    works = [Work("t", "c", training=3600)]
    market = [offer("RTX_3090", 1, 0.1), dear, cheap, offer("A100_SXM4", 1, 0.9)]
    found = plan(works, market, RATES, MARKET.scaling, NOTHING, gpu_mem_mb=79000)
    assert [(e.offer.name, e.dollars) for e in found.estimates] == [
        ("1x A100_SXM4", pytest.approx(0.45)),
        ("1x H100_SXM", pytest.approx(0.5)),
    ]
    assert any("79000 MB" in note and "RTX_3090" in note for note in found.notes)
    named = plan(works, market, RATES, MARKET.scaling, NOTHING, gpu_model="RTX_3090")
    assert [e.offer.gpu for e in named.estimates] == ["RTX_3090"]


def test_one_and_several_machines_are_offered_and_only_what_is_worth_taking_is_shown():
    works = [Work(name, name, training=3600) for name in "abc"]
    market = [o for gpu in ("A100_SXM4", "H100_SXM") for o in multiplied(offer(gpu), (1, 2, 4))]
    found = plan(works, market, RATES, MARKET.scaling, Overheads(), machines=(1, 2, 4))
    counts = {(e.offer.name, e.machines) for e in found.estimates}
    assert len(found.estimates) == len(counts) == 2 * 3 * 3  # three chains take three machines
    shown = found.worth_taking()
    assert shown[0] == found.estimates[0] and len(shown) > 2
    for left in found.estimates:
        better = [e for e in shown if e.dollars <= left.dollars and e.hours <= left.hours]
        assert better, left
    hours = [e.hours for e in shown]
    fastest = min(e.hours for e in found.estimates)
    assert hours == sorted(hours, reverse=True) and hours[-1] == fastest


def test_what_several_gpus_give_is_never_said_to_be_measured_unless_it_was(tmp_path):
    assert "NOT MEASURED" in MARKET.scaling.note and "gpu.py --only one_gpu" in MARKET.scaling.note
    rows = json.loads((ROOT / "resources/planning/scaling.json").read_text())
    for kind in ("training", "scoring"):
        assert all(row["measured"] is False and row["source"] for row in rows[kind].values())
    one_gpu = prices.with_measured(MARKET.scaling, ROOT / "benchmarks/results/h100.json")
    assert one_gpu == MARKET.scaling  # that machine had one
    file = tmp_path / "h200.json"
    shares = {"published": 0.4, "tokens_64k": 0.95, "tokens_64k_again": 0.8, "scoring": 0.99}
    file.write_text(json.dumps({"machine": {"name": "H200"}, "efficiency": {"2": shares}}))
    measured = prices.with_measured(MARKET.scaling, file)
    assert measured.scoring[2] == 0.99 and measured.training == MARKET.scaling.training
    told = (
        "on H200 (h200.json): 2 GPUs train at 40% by steps of 16 examples and 95% by steps of 384 "
    )
    told += (
        "examples, 80% by the latter without hardware.keep_gathered, score at 99%. Others: NOT M"
    )
    assert told in measured.note
    for examples, share in ((1, 0.4), (16, 0.4), (384, 0.95), (9999, 0.95)):
        assert measured.of_training(2, examples) == pytest.approx(share)
        assert measured.of_training(1, examples) == 1
    assert measured.of_training(2, 78) == pytest.approx(0.674, abs=0.002)  # half way, in logarithms


@given(
    st.floats(0.05, 1), st.floats(0.05, 1), st.integers(1, 2000), st.sampled_from([(2,), (2, 4)])
)
def test_more_gpus_lose_at_least_the_seconds_of_a_step_that_were_measured(low, high, size, known):
    steps = {n: {16: low, 384: high} for n in known}
    scaling = replace(MARKET.scaling, steps=steps)
    most = max(known)
    share = scaling.of_training(most, size)
    assert min(low, high) - 1e-9 <= share <= max(low, high) + 1e-9
    lost = 1 / (most * share) - 1 / most  # of the seconds that one GPU takes for the step
    for gpus in (4, 8):
        if gpus > most:
            more = scaling.of_training(gpus, size)
            assert more <= MARKET.scaling.training[gpus]
            assert 1 / (gpus * more) >= 1 / gpus + lost - 1e-9


def test_the_shipped_measurement_of_two_gpus_is_of_these_steps(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from gpu_ranks import scaling, works
    from workload import FULL

    sizes = {work: batch for work, (batch, *_) in works(FULL, 2).items()}
    assert all(sizes[work] == examples for work, examples in prices.MEASURED_STEPS.items())
    assert sizes[prices.AGAIN] == max(prices.MEASURED_STEPS.values())
    record = json.loads((ROOT / prices.SEVERAL).read_text())
    assert scaling(record["sections"]) == record["efficiency"]
    assert set(prices.with_measured(MARKET.scaling, ROOT / prices.SEVERAL).steps) == {2}


def test_every_price_has_a_date_and_a_source():
    for row in json.loads((ROOT / "resources/planning/offers.json").read_text())["prices"]:
        assert row["date"][:2] == "20" and row["source"].startswith("https://") and row["provider"]
    assert {(o.gpu, o.gpus) for o in MARKET.prices} == {
        (gpu, n) for gpu in MARKET.gpus for n in (1, 2, 4, 8)
    }


# ---- what is stale -------------------------------------------------------------------------------

SUMMARY = """output_file\tdate\trule\tlog-file(s)\tstatus\tplan
results/s/recovery.csv\t-\trecovery\t-\tmissing\tupdate pending
results/s/stage1_baseline/metrics.json\tnow\tstage1_baseline\ta.log\tok\tno update
results/s/stage3_finetune/3B-leaky/seed7/model\t-\tstage3_finetune\t-\tmissing\tupdate pending
results/s/stage3_finetune/3B-leaky/seed7/run.json\t-\tstage3_finetune\t-\tmissing\tupdate pending
results/s/stage4_posteval/3B-leaky/seed7/causal/run.json\t-\tstage4_posteval\t-\tok\tupdate pending
"""


def test_stale_jobs_are_those_that_snakemake_would_run():
    trained, scored = ("3B-leaky", 7), ("3B-leaky", 7)
    assert dry_run.parse_summary(SUMMARY) == [
        dry_run.Job("recovery"),
        dry_run.Job("stage3_finetune", *trained),
        dry_run.Job("stage4_posteval", *scored),
    ]
    with pytest.raises(dry_run.DryRunFailed, match="no table"):
        dry_run.parse_summary("Error: no such target")


def test_stale_jobs_are_found_with_a_home_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "home").touch()  # no user can create a folder below a file
    (tmp_path / "Snakefile").write_text('rule a:\n    output: "a"\n    shell: "touch a"\n')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert dry_run.stale_jobs(["a"], []) == [dry_run.Job("a")]


def test_tables_cost_nothing_and_a_checkpoint_stays_on_its_machine():
    study = load_study({}, ROOT / "config")
    jobs = [dry_run.Job("recovery"), dry_run.Job("stage1_baseline")]
    jobs += [dry_run.Job(rule, "3B", 31) for rule in ("stage3_finetune", "stage4_posteval")]
    works = dry_run.work_of(jobs, study, RATES, MARKET, Overheads())
    assert [work.chain for work in works] == ["stage1_baseline", "3B seed 31", "3B seed 31"]
    assert works[1].training and not works[1].scoring and works[2].scoring


OWN_TEXT = """task: own_text
output_type: generate_until
dataset_path: json
dataset_kwargs: {data_files: own.jsonl}
test_split: train
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
"""


def test_elsewhere_the_tasks_are_those_of_the_folder_and_speeds_those_that_are_shipped(
    tmp_path, monkeypatch
):
    """As with the wheel, whose modules are in no folder of a study."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "config/tasks/own_text.yaml").write_text(OWN_TEXT)
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    monkeypatch.chdir(tmp_path)
    jobs = [dry_run.Job("stage1_baseline"), dry_run.Job("stage1_generation")]

    def planned(*tasks):
        study = load_study({"evaluation": {"tasks": list(tasks)}}, Path("config"), pinned=False)
        return dry_run.plan_jobs(jobs, study, MARKET, MARKET.prices, Overheads(), [1])

    choices, texts = planned("micro_piqa"), planned("micro_piqa", "own_text")
    assert texts.works == choices.works and texts.works[0].scoring > 0
    (note,) = (note for note in texts.notes if note.startswith(estimates.NOT_COUNTED))
    assert "stage1_generation" in note


def test_a_profile_names_the_study_and_the_command_line_has_the_last_word(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert dry_run.study_of("slurm").study == "ministral3b"
    assert dry_run.study_of("slurm", ["config/rehearsal3b.yaml"]).study == "rehearsal3b"
    changed = dry_run.study_of("slurm", config=["study=mine", "hardware={runtime: 4}"])
    assert (changed.study, changed.hardware.runtime, changed.hardware.threads) == ("mine", 4, 8)
    assert dry_run.study_of(None).study == dry_run.study_of("default").study == "micro"
    with pytest.raises(dry_run.DryRunFailed, match="elsewhere/config.yaml was not found"):
        dry_run.study_of("elsewhere")


def test_the_command_asks_snakemake_and_answers_in_json(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    config = ["study=never_ran", "seeds=[1]", "recipes={3B: {train_mask: prefill_bidir}}"]
    assert main(["plan", "--json", "--machines", "2", "--config", *config]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [job["name"] for job in told["jobs"]] == [
        "stage1_baseline",
        "stage2_ablation",
        "stage3_finetune 3B seed 1",
        "stage4_posteval 3B seed 1",
    ]
    assert told["estimates"] and all(e["machines"] == 2 for e in told["estimates"])
    assert "Not counted, because they make only data and tables: base, base_in" in told["notes"][-1]
    dollars = [e["dollars"] for e in told["estimates"]]
    assert dollars == sorted(dollars) and dollars[0] > 0


def test_a_plan_in_json_controls_no_terminal(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(dry_run, "stale_jobs", lambda *_: [])
    monkeypatch.setattr(estimates.Plan, "as_json", lambda plan: {"name": "\x9b31m\x7f"})
    assert main(["plan", "--json"]) == 0
    told = capsys.readouterr().out
    assert told.strip().isprintable() and json.loads(told) == {"name": "\x9b31m\x7f"}


def test_what_snakemake_refuses_is_passed_on(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["plan", "results/nowhere.csv"]) == 1
    assert "results/nowhere.csv" in capsys.readouterr().err


# ---- before money is spent -----------------------------------------------------------------------


def answering(answer):
    def ask(question):
        assert "$7.00" in question
        if answer is None:
            raise EOFError
        return answer

    return ask


@pytest.mark.parametrize(
    "settings",
    [
        {"yes": True},
        {"yes": True, "budget": 7.0},
        {"budget": 7.5},  # nobody to ask: the budget stands for the yes
        {"ask": answering("y")},
        {"ask": answering(" Yes "), "budget": 9.0},
    ],
)
def test_spending_is_allowed(settings):
    allow_spending(7.0, **settings)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({}, "no terminal to ask at"),
        ({"budget": 6.99}, "over the budget of \\$6.99"),
        ({"yes": True, "budget": 6.99}, "over the budget"),
        ({"ask": answering("y"), "budget": 1.0}, "over the budget"),
        ({"ask": answering("")}, "was not yes"),
        ({"ask": answering("n"), "budget": 9.0}, "was not yes"),
        ({"ask": answering(None)}, "was not yes"),
    ],
)
def test_spending_is_not_allowed(settings, told):
    with pytest.raises(NotAllowed, match=told):
        allow_spending(7.0, **settings)


NONSENSE = {
    "no bandwidth": (["--megabits", "0"], "a number above 0 was expected"),
    "time that runs back": (["--startup-minutes", "-5"], "a number of at least 0 was expected"),
    "no number": (["--checkpoint-gb", "nan"], "a number of at least 0 was expected"),
    "no file": (["--configfile", "none.yaml"], "none.yaml: No such file"),
    "a folder": (["--configfile", "config"], "config: Is a directory"),
}


@pytest.mark.parametrize("arguments, told", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused_in_words(monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        raise SystemExit(main(["plan", *arguments]))
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "[]", "{}", "cut"])
def test_step_times_that_are_none_are_named(tmp_path, text):
    file = tmp_path / "times.json"
    if text:
        file.write_text(text)
    with pytest.raises(prices.NoOffers, match=r"times\.json holds no step times"):
        prices.benchmarked(MARKET, STUDY.hardware, file)
