# Tables: from sample rows to what came back.
# Needs stages 1, 2 and 4; makes results/<study>/{bag_of_words,recovery,per_task,contrasts,published}.csv.


localrules:
    bag_of_words,
    recovery,
    recovery_named,
    published,


rule bag_of_words:
    """What each task gives to a model that does not read in order: near chance, or it is no test."""
    input:
        data=f"{ITEMS}/manifest.json",
    output:
        table=report(
            f"{RESULTS}/bag_of_words.csv",
            caption="../workflow/report/table_bag_of_words.rst",
            category="5 Tables as CSV",
            labels={"table": "bag_of_words"},
        ),
        manifest=f"{RESULTS}/bag_of_words.manifest.json",
        run=f"{RESULTS}/bag_of_words.run.json",
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
        recovery=report(
            f"{RESULTS}/recovery.csv",
            caption="../workflow/report/table_recovery.rst",
            category="5 Tables as CSV",
            labels={"table": "recovery"},
        ),
        per_task=report(
            f"{RESULTS}/per_task.csv",
            caption="../workflow/report/table_per_task.rst",
            category="5 Tables as CSV",
            labels={"table": "per_task"},
        ),
        contrasts=report(
            f"{RESULTS}/contrasts.csv",
            caption="../workflow/report/table_contrasts.rst",
            category="5 Tables as CSV",
            labels={"table": "contrasts"},
        ),
        manifest=f"{RESULTS}/recovery.manifest.json",
        run=f"{RESULTS}/recovery.run.json",
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
        table=report(
            f"{RESULTS}/published.csv",
            caption="../workflow/report/table_published.rst",
            category="5 Tables as CSV",
            labels={"table": "published"},
        ),
        manifest=f"{RESULTS}/published.manifest.json",
        run=f"{RESULTS}/published.run.json",
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
