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
    bridge_pages,


wildcard_constraints:
    role="|".join(ROLES),
    regime="|".join(REGIMES_RUN),
    direction="forward|swapped",


rule bridge:
    """Every table and figure of the second study."""
    input:
        expand(f"{BRIDGE}/{{table}}.csv", table=(*BRIDGE_TABLES, "published", "published_repeats")),
        expand(f"{BRIDGE}/figures/{{figure}}.svg", figure=BRIDGE_FIGURES),
        expand(f"{BRIDGE}/report/{{page}}.html", page=[*BRIDGE_PAGES, "costs", "environment"]),


rule bridge_questions:
    """Questions of every regime, in three splits that share none."""
    output:
        expand(f"{BRIDGE}/questions/{{regime}}/{{split}}.jsonl", regime=REGIMES_RUN, split=SPLITS),
        [f"{BRIDGE}/README.md"] if STUDY.bridge.rehearsal else [],
        manifest=QUESTIONS,
        run=f"{BRIDGE}/questions/run.json",
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
        **STUDY.hardware.asked(),
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
        bridge_files("source"),
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
        bridge_files("target"),
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
        asked_files,
        weights=bridge_weights(),
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
        **STUDY.hardware.asked(),
    params:
        stamp=lambda w: provenance.canonical_json(bridge_states_stamp(w.regime, w.direction)),
    message:
        "Bridge: reading {wildcards.regime} questions, {wildcards.direction}"
    script:
        "../workflow/scripts/bridge_states.py"


rule bridge_cells:
    """Every translator of one regime and seed, trained and asked: several cells in one process."""
    input:
        asked_files,
        read_files,
        weights=bridge_weights(),
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
        **STUDY.hardware.asked(),
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
        asked_files,
        weights=bridge_weights(),
        questions=QUESTIONS,
        source=bridge_model("source"),
        target=bridge_model("target"),
        translators=ancient(f"{TIMED}/translators"),
        cells=f"{TIMED}/manifest.json",
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
        **STUDY.hardware.asked(),
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
        bridge_samples(),
    output:
        tables=[
            report(
                f"{BRIDGE}/{table}.csv",
                caption="../workflow/report/bridge_tables.rst",
                category="5 Tables as CSV",
                labels={"table": table},
            )
            for table in BRIDGE_TABLES
        ],
        manifest=f"{BRIDGE}/tables.manifest.json",
        run=f"{BRIDGE}/tables.run.json",
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
            category="5 Tables as CSV",
            labels={"table": "published"},
        ),
        repeats=report(
            f"{BRIDGE}/published_repeats.csv",
            caption="../workflow/report/bridge_published.rst",
            category="5 Tables as CSV",
            labels={"table": "published_repeats"},
        ),
        manifest=f"{BRIDGE}/published.manifest.json",
        run=f"{BRIDGE}/published.run.json",
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
            category="2 Figures",
            labels=lambda w: {"page": BRIDGE_TITLES[w.figure]},
        ),
        f"{BRIDGE}/figures/{{figure}}.png",
        f"{BRIDGE}/figures/{{figure}}.html",
        manifest=f"{BRIDGE}/figures/{{figure}}.manifest.json",
        run=f"{BRIDGE}/figures/{{figure}}.run.json",
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


rule bridge_pages:
    """Every table of the bridge as a page that sorts and needs no network."""
    input:
        list(bridge_pages_stamp()["upstream"]),
        [f"{BRIDGE}/{table}.csv" for tables in BRIDGE_PAGES.values() for table in tables],
    output:
        [
            report(
                f"{BRIDGE}/report/{page}.html",
                caption="../workflow/report/bridge_tables.rst",
                category="1 Findings",
                labels={"page": BRIDGE_TITLES[page]},
            )
            for page in BRIDGE_PAGES
        ],
        manifest=f"{BRIDGE}/report/manifest.json",
        run=f"{BRIDGE}/report/run.json",
    log:
        f"{LOGS}/bridge/pages.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(bridge_pages_stamp()),
    message:
        "Bridge: pages of tables"
    script:
        "../workflow/scripts/bridge_pages.py"
