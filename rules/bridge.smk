# The second study: one model reads, a translator speaks soft tokens, another model answers.
# Only in a study with a `bridge:` block. Makes results/<study>/bridge/.


localrules:
    bridge,
    bridge_questions,
    bridge_random,
    bridge_source,
    bridge_target,
    bridge_tables,
    bridge_published,
    bridge_figures,


wildcard_constraints:
    role="|".join(ROLES),
    regime="|".join(REGIMES_RUN),
    direction="forward|swapped",


rule bridge:
    """Every table and figure of the second study."""
    input:
        expand(f"{BRIDGE}/{{table}}.csv", table=(*BRIDGE_TABLES, "published", "published_repeats")),
        expand(f"{BRIDGE}/figures/{{figure}}.svg", figure=BRIDGE_FIGURES),


rule bridge_questions:
    """Questions of every regime, in three splits that share none."""
    output:
        expand(f"{BRIDGE}/questions/{{regime}}/{{split}}.jsonl", regime=REGIMES_RUN, split=SPLITS),
        [f"{BRIDGE}/README.md"] if STUDY.bridge.rehearsal else [],
        manifest=QUESTIONS,
    log:
        f"{LOGS}/bridge/questions.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(questions_stamp()),
    message:
        "Bridge: writing questions"
    script:
        "../workflow/scripts/bridge_questions.py"


rule bridge_pretrain:
    """A model of the micro bridge from nothing: runs only where `bridge:` says `pretrain`."""
    output:
        model=directory(f"{BRIDGE}/pretrained/{{role}}/model"),
        manifest=f"{BRIDGE}/pretrained/{{role}}/manifest.json",
        run=f"{BRIDGE}/pretrained/{{role}}/run.json",
    log:
        f"{LOGS}/bridge/pretrain-{{role}}.log",
    benchmark:
        f"{LOGS}/bridge/pretrain-{{role}}.benchmark.tsv"
    conda:
        "../environment.yml"
    resources:
        **SCORING_HARDWARE.asked(),
    params:
        stamp=lambda w: provenance.canonical_json(bridge_pretrain_stamp(w.role)),
    message:
        "Bridge: pretraining the {wildcards.role} from nothing"
    script:
        "../workflow/scripts/bridge_pretrain.py"


rule bridge_random:
    """A model of random weights: runs only where `bridge:` says `random`, a rehearsal."""
    output:
        model=directory(f"{BRIDGE}/random/{{role}}/model"),
        manifest=f"{BRIDGE}/random/{{role}}/manifest.json",
    log:
        f"{LOGS}/bridge/random-{{role}}.log",
    conda:
        "../environment.yml"
    params:
        stamp=lambda w: provenance.canonical_json(bridge_random_stamp(w.role)),
    message:
        "Bridge: shape and tokenizer of a random {wildcards.role}"
    script:
        "../workflow/scripts/bridge_random.py"


rule bridge_source:
    """One manifest that names every file of the source by its hash."""
    input:
        record=bridge_record("source"),
    output:
        manifest=bridge_model("source"),
        run=f"{BRIDGE}/models/source.run.json",
    log:
        f"{LOGS}/bridge/source.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(bridge_model_stamp("source")),
    message:
        "Bridge: pinning the source"
    script:
        "../workflow/scripts/base.py"


use rule bridge_source as bridge_target with:
    input:
        record=bridge_record("target"),
    output:
        manifest=bridge_model("target"),
        run=f"{BRIDGE}/models/target.run.json",
    log:
        f"{LOGS}/bridge/target.log",
    params:
        stamp=provenance.canonical_json(bridge_model_stamp("target")),
    message:
        "Bridge: pinning the target"


rule bridge_states:
    """What the frozen models say once: source states, teacher log-probabilities, arms alone."""
    input:
        bridge_weights(),
        expand(f"{BRIDGE}/questions/{{{{regime}}}}/{{split}}.jsonl", split=SPLITS),
        questions=QUESTIONS,
        source=bridge_model("source"),
        target=bridge_model("target"),
    output:
        directory(
            expand(f"{BRIDGE}/states/{{{{regime}}}}/{{{{direction}}}}/{{split}}", split=SPLITS)
        ),
        samples=f"{BRIDGE}/states/{{regime}}/{{direction}}/samples.parquet",
        manifest=f"{BRIDGE}/states/{{regime}}/{{direction}}/manifest.json",
        run=f"{BRIDGE}/states/{{regime}}/{{direction}}/run.json",
    log:
        f"{LOGS}/bridge/states-{{regime}}-{{direction}}.log",
    benchmark:
        f"{LOGS}/bridge/states-{{regime}}-{{direction}}.benchmark.tsv"
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **SCORING_HARDWARE.asked(),
    params:
        stamp=lambda w: provenance.canonical_json(bridge_states_stamp(w.regime, w.direction)),
    message:
        "Bridge: reading {wildcards.regime} questions, {wildcards.direction}"
    script:
        "../workflow/scripts/bridge_states.py"


rule bridge_cells:
    """Every translator of one regime and seed, trained and asked: several cells in one process."""
    input:
        bridge_weights(),
        expand(f"{BRIDGE}/questions/{{{{regime}}}}/{{split}}.jsonl", split=SPLITS),
        lambda w: ancient(bridge_cached(w.regime)),
        questions=QUESTIONS,
        source=bridge_model("source"),
        target=bridge_model("target"),
        states=lambda w: [bridge_states(w.regime, d) for d in directions(w.regime)],
    output:
        translators=directory(f"{BRIDGE}/cells/{{regime}}/seed{{seed}}/translators"),
        samples=f"{BRIDGE}/cells/{{regime}}/seed{{seed}}/samples.parquet",
        summary=f"{BRIDGE}/cells/{{regime}}/seed{{seed}}/summary.json",
        curve=f"{BRIDGE}/cells/{{regime}}/seed{{seed}}/curve.jsonl",
        manifest=f"{BRIDGE}/cells/{{regime}}/seed{{seed}}/manifest.json",
        run=f"{BRIDGE}/cells/{{regime}}/seed{{seed}}/run.json",
    log:
        f"{LOGS}/bridge/cells-{{regime}}-{{seed}}.log",
    benchmark:
        f"{LOGS}/bridge/cells-{{regime}}-{{seed}}.benchmark.tsv"
    wildcard_constraints:
        seed="|".join(map(str, STUDY.bridge.seeds)),
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **SCORING_HARDWARE.asked(),
    params:
        stamp=lambda w: provenance.canonical_json(bridge_cells_stamp(w.regime, w.seed)),
        state=lambda w: bridge_training_state(w.regime, w.seed),
    message:
        "Bridge: training translators for {wildcards.regime}, seed {wildcards.seed}"
    script:
        "../workflow/scripts/bridge_cells.py"


rule bridge_inference:
    """Cache memory, latency and quality of the five arms, one question at a time."""
    input:
        bridge_weights(),
        expand(f"{BRIDGE}/questions/{{{{regime}}}}/{{split}}.jsonl", split=SPLITS),
        questions=QUESTIONS,
        source=bridge_model("source"),
        target=bridge_model("target"),
        cells=f"{BRIDGE}/cells/{{regime}}/seed{STUDY.bridge.seeds[0]}/manifest.json",
        translators=ancient(f"{BRIDGE}/cells/{{regime}}/seed{STUDY.bridge.seeds[0]}/translators"),
    output:
        samples=f"{BRIDGE}/inference/{{regime}}/inference_per_sample.jsonl",
        manifest=f"{BRIDGE}/inference/{{regime}}/manifest.json",
        run=f"{BRIDGE}/inference/{{regime}}/run.json",
    log:
        f"{LOGS}/bridge/inference-{{regime}}.log",
    benchmark:
        f"{LOGS}/bridge/inference-{{regime}}.benchmark.tsv"
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **SCORING_HARDWARE.asked(),
    params:
        stamp=lambda w: provenance.canonical_json(bridge_inference_stamp(w.regime)),
    message:
        "Bridge: measuring what the arms cost, {wildcards.regime}"
    script:
        "../workflow/scripts/bridge_inference.py"


rule bridge_tables:
    """Runs, effects, controls, compression, quantization, costs, claims, plan and audit."""
    input:
        list(bridge_measured()),
    output:
        tables=[
            report(
                f"{BRIDGE}/{table}.csv",
                caption="../workflow/report/bridge_tables.rst",
                category="Bridge",
            )
            for table in BRIDGE_TABLES
        ],
        manifest=f"{BRIDGE}/tables.manifest.json",
    log:
        f"{LOGS}/bridge/tables.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(bridge_tables_stamp()),
    message:
        "Bridge: tables"
    script:
        "../workflow/scripts/bridge_tables.py"


rule bridge_published:
    """The 42 published runs: which of them test a bridge, and what repeats of one config differ by."""
    input:
        published="resources/published/bridge.json",
    output:
        runs=report(
            f"{BRIDGE}/published.csv",
            caption="../workflow/report/bridge_published.rst",
            category="Bridge",
        ),
        repeats=report(
            f"{BRIDGE}/published_repeats.csv",
            caption="../workflow/report/bridge_published.rst",
            category="Bridge",
        ),
        manifest=f"{BRIDGE}/published.manifest.json",
    log:
        f"{LOGS}/bridge/published.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(bridge_published_stamp()),
    message:
        "Bridge: published runs"
    script:
        "../workflow/scripts/bridge_published.py"


rule bridge_figures:
    """One figure, drawn from the tables beside it."""
    input:
        tables=lambda w: [f"{BRIDGE}/{table}.csv" for table in BRIDGE_FIGURES[w.figure]],
        manifest=f"{BRIDGE}/tables.manifest.json",
    output:
        report(
            f"{BRIDGE}/figures/{{figure}}.svg",
            caption="../workflow/report/bridge_figures.rst",
            category="Bridge",
        ),
        f"{BRIDGE}/figures/{{figure}}.png",
    log:
        f"{LOGS}/bridge/figure-{{figure}}.log",
    wildcard_constraints:
        figure="|".join(BRIDGE_FIGURES),
    conda:
        "../environment.yml"
    params:
        stamp=lambda w: provenance.canonical_json(bridge_figure_stamp(w.figure)),
    message:
        "Bridge: drawing {wildcards.figure}"
    script:
        "../workflow/scripts/bridge_figures.py"
