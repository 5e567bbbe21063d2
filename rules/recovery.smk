# Tables and figures: from sample rows to what came back.
# Needs stages 1, 2 and 4; makes results/<study>/{bag_of_words,recovery,per_task,contrasts,published}.csv and figures/.


localrules:
    bag_of_words,
    recovery,
    recovery_named,
    published,
    figures,


rule bag_of_words:
    """What each task gives to a model that does not read in order: near chance, or it is no test."""
    input:
        data=f"{ITEMS}/manifest.json",
    output:
        table=f"{RESULTS}/bag_of_words.csv",
    log:
        f"{LOGS}/bag_of_words.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(bag_of_words_stamp()),
    message:
        "Tables: bag-of-words baselines"
    script:
        "../workflow/scripts/bag_of_words.py"


rule recovery:
    """Damage, gain, side effect and recovered fraction of every recipe, seed, mask and task."""
    input:
        list(measured()),
    output:
        recovery=f"{RESULTS}/recovery.csv",
        per_task=f"{RESULTS}/per_task.csv",
        contrasts=f"{RESULTS}/contrasts.csv",
        manifest=f"{RESULTS}/recovery.manifest.json",
    log:
        f"{LOGS}/recovery.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(recovery_stamp()),
    message:
        "Tables: what was lost, what came back"
    script:
        "../workflow/scripts/recovery.py"


rule recovery_named:
    """The table of the study in hand, under the name that users type."""
    input:
        f"{RESULTS}/recovery.csv",
    output:
        "results/recovery.csv",
    log:
        f"{LOGS}/recovery_named.log",
    conda:
        "../environment.yml"
    message:
        "results/recovery.csv is the table of {STUDY.study}"
    shell:
        "cp {input} {output} 2> {log}"


rule published:
    """Published numbers beside this study's, each row with its mask and protocol."""
    input:
        published="resources/published/prefill.json",
        recovery=f"{RESULTS}/recovery.csv",
        manifest=f"{RESULTS}/recovery.manifest.json",
    output:
        table=f"{RESULTS}/published.csv",
    log:
        f"{LOGS}/published.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(published_stamp()),
    message:
        "Tables: published numbers beside our own"
    script:
        "../workflow/scripts/published.py"


rule figures:
    """Accuracy per task and stage, with intervals."""
    input:
        per_task=f"{RESULTS}/per_task.csv",
        manifest=f"{RESULTS}/recovery.manifest.json",
    output:
        expand(f"{RESULTS}/figures/accuracy.{{form}}", form=("svg", "png", "html")),
    log:
        f"{LOGS}/figures.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(figures_stamp()),
    message:
        "Figures: accuracy per task and stage"
    script:
        "../workflow/scripts/figures.py"
