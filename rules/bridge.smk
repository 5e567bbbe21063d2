# The second study, the cross-model bridge: the source reads a question, a trained translator turns
# its hidden states into soft tokens, and the target answers from them.
# Needs a `bridge:` block in the configuration. Makes results/<study>/bridge/.

from ablation.vocabulary.bridge import SPLITS
from ablation.vocabulary.catalogue import BRIDGE

B = LOADED.bridge_paths


wildcard_constraints:
    role="source|target",
    regime="|".join(B.regimes),
    direction="forward|swapped",


rule bridge:
    """Every table and figure of the second study."""
    input:
        [B.table(table) for table in BRIDGE.tables],
        [f"{B.results}/figures/{figure}.svg" for figure in B.figures],
        [f"{B.results}/report/{page}.html" for page in BRIDGE.pages],
    localrule: True


rule bridge_questions:
    """The questions of every regime, in three splits that share no question."""
    output:
        [file for regime in B.regimes for file in B.asked(regime)],
        [f"{B.results}/README.md"] if STUDY.bridge.rehearsal else [],
        manifest=B.questions,
        run=f"{B.results}/questions/run.json",
    log:
        f"{LOGS}/bridge/questions.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=LOADED.bridge.text("bridge_questions"),
    message:
        "Bridge: writing questions"
    script:
        "../workflow/scripts/bridge_questions.py"


rule bridge_pretrain:
    """The source or target of the micro bridge, pretrained from random weights (`pretrain`)."""
    output:
        model=directory(f"{B.results}/pretrained/{{role}}/model"),
        manifest=f"{B.results}/pretrained/{{role}}/manifest.json",
        run=f"{B.results}/pretrained/{{role}}/run.json",
    log:
        f"{LOGS}/bridge/pretrain-{{role}}.log",
    benchmark:
        f"{LOGS}/bridge/pretrain-{{role}}.benchmark.tsv"
    conda:
        "../environment.yml"
    resources:
        **STUDY.hardware.resources(),
    params:
        fingerprint=lambda w: LOADED.bridge.text("bridge_pretrain", w.role),
    message:
        "Bridge: pretraining the {wildcards.role} from random weights"
    script:
        "../workflow/scripts/bridge_pretrain.py"


rule bridge_random:
    """Shape and tokenizer of a model with random weights, for a rehearsal (`random`)."""
    output:
        model=directory(f"{B.results}/random/{{role}}/model"),
        manifest=f"{B.results}/random/{{role}}/manifest.json",
    log:
        f"{LOGS}/bridge/random-{{role}}.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=lambda w: LOADED.bridge.text("bridge_random", w.role),
    message:
        "Bridge: writing shape and tokenizer of a random {wildcards.role}"
    script:
        "../workflow/scripts/bridge_random.py"


rule bridge_source:
    """The manifest of the source: every file with its hash."""
    input:
        local(B.files("source")),
        record=B.record("source") if B.made_here("source") else local(B.record("source") or []),
    output:
        manifest=B.model("source"),
        run=f"{B.results}/models/source.run.json",
    log:
        f"{LOGS}/bridge/source.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=LOADED.bridge.text("bridge_source"),
    message:
        "Bridge: pinning the source"
    script:
        "../workflow/scripts/base.py"


use rule bridge_source as bridge_target with:
    input:
        local(B.files("target")),
        record=B.record("target") if B.made_here("target") else local(B.record("target") or []),
    output:
        manifest=B.model("target"),
        run=f"{B.results}/models/target.run.json",
    log:
        f"{LOGS}/bridge/target.log",
    params:
        fingerprint=LOADED.bridge.text("bridge_target"),
    message:
        "Bridge: pinning the target"


rule bridge_states:
    """Cached source activations, teacher log-probabilities, and answers without a translator."""
    input:
        lambda w: B.asked(w.regime),
        weights=ancient(B.weights),
        questions=B.questions,
        source=B.model("source"),
        target=B.model("target"),
    output:
        directory([f"{B.results}/states/{{regime}}/{{direction}}/{split}" for split in SPLITS]),
        samples=f"{B.results}/states/{{regime}}/{{direction}}/samples.parquet",
        manifest=f"{B.results}/states/{{regime}}/{{direction}}/manifest.json",
        run=f"{B.results}/states/{{regime}}/{{direction}}/run.json",
    log:
        f"{LOGS}/bridge/states-{{regime}}-{{direction}}.log",
    benchmark:
        f"{LOGS}/bridge/states-{{regime}}-{{direction}}.benchmark.tsv"
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **STUDY.hardware.resources(),
    params:
        fingerprint=lambda w: LOADED.bridge.text("bridge_states", w.regime, w.direction),
    message:
        "Bridge: caching activations of {wildcards.regime} questions, {wildcards.direction}"
    script:
        "../workflow/scripts/bridge_states.py"


rule bridge_cells:
    """Every translator of one regime and seed, trained and evaluated in one process."""
    input:
        lambda w: B.asked(w.regime),
        lambda w: ancient(B.activation_files(w.regime)),
        weights=ancient(B.weights),
        questions=B.questions,
        source=B.model("source"),
        target=B.model("target"),
        activations=lambda w: B.every_activations(w.regime),
    output:
        translators=directory(f"{B.results}/cells/{{regime}}/seed{{seed}}/translators"),
        samples=f"{B.results}/cells/{{regime}}/seed{{seed}}/samples.parquet",
        summary=f"{B.results}/cells/{{regime}}/seed{{seed}}/summary.json",
        curve=f"{B.results}/cells/{{regime}}/seed{{seed}}/curve.jsonl",
        manifest=f"{B.results}/cells/{{regime}}/seed{{seed}}/manifest.json",
        run=f"{B.results}/cells/{{regime}}/seed{{seed}}/run.json",
    log:
        f"{LOGS}/bridge/cells-{{regime}}-{{seed}}.log",
    benchmark:
        f"{LOGS}/bridge/cells-{{regime}}-{{seed}}.benchmark.tsv"
    wildcard_constraints:
        seed="|".join(
            sorted({str(s) for regime in B.regimes for s in STUDY.bridge.seeds_of(regime)})
        ),
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **STUDY.hardware.resources(),
    params:
        fingerprint=lambda w: LOADED.bridge.text("bridge_cells", w.regime, w.seed),
        state=lambda w: LOADED.bridge.training_state(w.regime, w.seed),
    message:
        "Bridge: training translators for {wildcards.regime}, seed {wildcards.seed}"
    script:
        "../workflow/scripts/bridge_cells.py"


rule bridge_inference:
    """KV cache, latency and quality of the arms, one question at a time."""
    input:
        lambda w: B.asked(w.regime),
        weights=ancient(B.weights),
        questions=B.questions,
        source=B.model("source"),
        target=B.model("target"),
        translators=ancient(B.timed_translators),
        cells=lambda w: B.timed(w.regime),
    output:
        samples=f"{B.results}/inference/{{regime}}/inference_per_sample.jsonl",
        manifest=f"{B.results}/inference/{{regime}}/manifest.json",
        run=f"{B.results}/inference/{{regime}}/run.json",
    log:
        f"{LOGS}/bridge/inference-{{regime}}.log",
    benchmark:
        f"{LOGS}/bridge/inference-{{regime}}.benchmark.tsv"
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **STUDY.hardware.resources(),
    params:
        fingerprint=lambda w: LOADED.bridge.text("bridge_inference", w.regime),
    message:
        "Bridge: measuring the costs of the arms, {wildcards.regime}"
    script:
        "../workflow/scripts/bridge_inference.py"


rule bridge_tables:
    """Every table that is computed from sample rows, with the claims."""
    input:
        B.measured,
        B.read_by_tables,
    output:
        tables=[
            report(
                f"{B.results}/{table}.csv",
                caption="../workflow/report/bridge_tables.rst",
                category=TABLES,
                labels={"table": table},
            )
            for table in B.tables
        ],
        manifest=f"{B.results}/tables.manifest.json",
        run=f"{B.results}/tables.run.json",
    log:
        f"{LOGS}/bridge/tables.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=LOADED.bridge.text("bridge_tables"),
    message:
        "Bridge: writing tables"
    script:
        "../workflow/scripts/bridge_tables.py"


rule bridge_published:
    """The 42 published runs: which of them test a bridge, and the noise between repeats."""
    input:
        published=local("resources/published/bridge.json"),
    output:
        runs=report(
            f"{B.results}/published.csv",
            caption="../workflow/report/bridge_published.rst",
            category=TABLES,
            labels={"table": "published"},
        ),
        repeats=report(
            f"{B.results}/published_repeats.csv",
            caption="../workflow/report/bridge_published.rst",
            category=TABLES,
            labels={"table": "published_repeats"},
        ),
        manifest=f"{B.results}/published.manifest.json",
        run=f"{B.results}/published.run.json",
    log:
        f"{LOGS}/bridge/published.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=LOADED.bridge.text("bridge_published"),
    message:
        "Bridge: writing tables of the published runs"
    script:
        "../workflow/scripts/bridge_published.py"


rule bridge_figures:
    """One figure, drawn from the tables beside it."""
    input:
        tables=lambda w: [B.table(table) for table in B.figures[w.figure]],
        manifest=f"{B.results}/tables.manifest.json",
    output:
        figures=[
            report(
                f"{B.results}/figures/{{figure}}.svg",
                caption="../workflow/report/bridge_figures.rst",
                category=FIGURES,
                labels=lambda w: {"page": BRIDGE.figure_title(w.figure)},
            ),
            f"{B.results}/figures/{{figure}}.png",
            f"{B.results}/figures/{{figure}}.html",
        ],
        manifest=f"{B.results}/figures/{{figure}}.manifest.json",
        run=f"{B.results}/figures/{{figure}}.run.json",
    log:
        f"{LOGS}/bridge/figure-{{figure}}.log",
    wildcard_constraints:
        figure="|".join(B.figures),
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=lambda w: LOADED.bridge.text("bridge_figures", w.figure),
    message:
        "Bridge: drawing {wildcards.figure}"
    script:
        "../workflow/scripts/figures.py"


rule bridge_pages:
    """Every table of the bridge as a sortable page that needs no network."""
    input:
        list(LOADED.bridge.of("bridge_pages")["upstream"]),
        [B.table(table) for tables in B.pages.values() for table in tables],
    output:
        [
            report(
                f"{B.results}/report/{page}.html",
                caption="../workflow/report/bridge_tables.rst",
                category=FINDINGS,
                labels={"page": BRIDGE.page_title(page)},
            )
            for page in B.pages
        ],
        manifest=f"{B.results}/report/manifest.json",
        run=f"{B.results}/report/run.json",
    log:
        f"{LOGS}/bridge/pages.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=LOADED.bridge.text("bridge_pages"),
    message:
        "Bridge: writing pages of tables"
    script:
        "../workflow/scripts/pages.py"
