# The second study: one model reads, a translator speaks soft tokens, another model answers.
# Only in a study with a `bridge:` block. Makes results/<study>/bridge/.


localrules:
    bridge,
    bridge_questions,
    bridge_source,
    bridge_target,


wildcard_constraints:
    role="|".join(ROLES),
    regime="|".join(REGIMES_RUN),
    direction="|".join(DIRECTIONS),


rule bridge:
    """Every table and figure of the second study."""
    input:
        expand(f"{BRIDGE}/{{table}}.csv", table=(*BRIDGE_TABLES, "published")),
        expand(f"{BRIDGE}/figures/{{figure}}.svg", figure=BRIDGE_FIGURES),


rule bridge_questions:
    """Questions of every regime, in three splits that share none."""
    output:
        expand(f"{BRIDGE}/questions/{{regime}}/{{split}}.jsonl", regime=REGIMES_RUN, split=SPLITS),
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
    params:
        stamp=lambda w: provenance.canonical_json(bridge_pretrain_stamp(w.role)),
    message:
        "Bridge: pretraining the {wildcards.role} from nothing"
    script:
        "../workflow/scripts/bridge_pretrain.py"


rule bridge_source:
    """One manifest that names every file of the source by its hash."""
    input:
        record=bridge_record("source"),
    output:
        manifest=bridge_model("source"),
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
    log:
        f"{LOGS}/bridge/target.log",
    params:
        stamp=provenance.canonical_json(bridge_model_stamp("target")),
    message:
        "Bridge: pinning the target"


rule bridge_states:
    """What the frozen models say once: source states, teacher log-probabilities, arms alone."""
    input:
        questions=QUESTIONS,
        source=bridge_model("source"),
        target=bridge_model("target"),
    output:
        expand(f"{BRIDGE}/states/{{{{regime}}}}/{{{{direction}}}}/{{split}}.safetensors", split=SPLITS),
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
        gpu=STUDY.hardware.gpu,
    params:
        stamp=lambda w: provenance.canonical_json(bridge_states_stamp(w.regime, w.direction)),
    message:
        "Bridge: reading {wildcards.regime} questions, {wildcards.direction}"
    script:
        "../workflow/scripts/bridge_states.py"


rule bridge_cells:
    """Every translator of one regime and seed, trained and asked: several cells in one process."""
    input:
        questions=QUESTIONS,
        source=bridge_model("source"),
        target=bridge_model("target"),
        states=[f"{BRIDGE}/states/{{regime}}/{d}/manifest.json" for d in DIRECTIONS],
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
        gpu=STUDY.hardware.gpu,
    params:
        stamp=lambda w: provenance.canonical_json(bridge_cells_stamp(w.regime, w.seed)),
        state=lambda w: bridge_training_state(w.regime, w.seed),
    message:
        "Bridge: training translators for {wildcards.regime}, seed {wildcards.seed}"
    script:
        "../workflow/scripts/bridge_cells.py"
