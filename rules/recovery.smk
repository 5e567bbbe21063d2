# Tables of the damage and of the recovery, computed from sample rows.
# Needs stages 1, 2, 4 and 5. Makes results/<study>/{bag_of_words,recovery,per_task,contrasts}.csv
# and published.csv.


rule bag_of_words:
    """Bag-of-words baselines: a task tests reading only if they are near chance."""
    input:
        data=f"{PATHS.items}/manifest.json",
    output:
        table=report(
            f"{RESULTS}/bag_of_words.csv",
            caption="../workflow/report/table_bag_of_words.rst",
            category=TABLES,
            labels={"table": "bag_of_words"},
        ),
        manifest=f"{RESULTS}/bag_of_words.manifest.json",
        run=f"{RESULTS}/bag_of_words.run.json",
    log:
        f"{LOGS}/bag_of_words.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=FINGERPRINTS.text("bag_of_words"),
    message:
        "Tables: bag-of-words baselines"
    script:
        "../workflow/scripts/bag_of_words.py"


rule recovery:
    """Damage, gain, side effect and recovered fraction of every recipe, seed, mask and task."""
    input:
        list(FINGERPRINTS.measured),
    output:
        recovery=report(
            f"{RESULTS}/recovery.csv",
            caption="../workflow/report/table_recovery.rst",
            category=TABLES,
            labels={"table": "recovery"},
        ),
        per_task=report(
            f"{RESULTS}/per_task.csv",
            caption="../workflow/report/table_per_task.rst",
            category=TABLES,
            labels={"table": "per_task"},
        ),
        contrasts=report(
            f"{RESULTS}/contrasts.csv",
            caption="../workflow/report/table_contrasts.rst",
            category=TABLES,
            labels={"table": "contrasts"},
        ),
        manifest=f"{RESULTS}/recovery.manifest.json",
        run=f"{RESULTS}/recovery.run.json",
    log:
        f"{LOGS}/recovery.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=FINGERPRINTS.text("recovery"),
    message:
        "Tables: damage and recovery"
    script:
        "../workflow/scripts/recovery.py"


rule recovery_named:
    """The recovery table of the study, under a name that does not depend on the study."""
    input:
        PATHS.every_metrics,
        recovery=f"{RESULTS}/recovery.csv",
        manifest=f"{RESULTS}/recovery.manifest.json",
    output:
        table="results/recovery.csv",
    log:
        f"{LOGS}/recovery_named.log",
    localrule: True
    conda:
        "../environment.yml"
    message:
        "results/recovery.csv is the recovery table of the study {STUDY.study}"
    script:
        "../workflow/scripts/recovery_named.py"


rule published:
    """Published numbers next to those of the study, each row with its mask and protocol."""
    input:
        published=local("resources/published/prefill.json"),
        recovery=f"{RESULTS}/recovery.csv",
        manifest=f"{RESULTS}/recovery.manifest.json",
    output:
        table=report(
            f"{RESULTS}/published.csv",
            caption="../workflow/report/table_published.rst",
            category=TABLES,
            labels={"table": "published"},
        ),
        manifest=f"{RESULTS}/published.manifest.json",
        run=f"{RESULTS}/published.run.json",
    log:
        f"{LOGS}/published.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=FINGERPRINTS.text("published"),
    message:
        "Tables: published numbers next to our own"
    script:
        "../workflow/scripts/published.py"
