# Figures, and the tables that only figures need.
# Needs stages 1 to 5 and the recovery tables.
# Makes results/<study>/{flips,curves,mask_cells}.csv and results/<study>/figures/.


rule flips:
    """How many items were right or wrong before, under the mask and after finetuning."""
    input:
        list(FINGERPRINTS.measured),
    output:
        table=report(
            f"{RESULTS}/flips.csv",
            caption="../workflow/report/table_flips.rst",
            category=TABLES,
            labels={"table": "flips"},
        ),
        manifest=f"{RESULTS}/flips.manifest.json",
        run=f"{RESULTS}/flips.run.json",
    log:
        f"{LOGS}/flips.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=FINGERPRINTS.text("flips"),
    message:
        "Tables: items that were lost and regained"
    script:
        "../workflow/scripts/flips.py"


rule curves:
    """Every logged loss of every finetuning (nats a response token), with resumes and stops."""
    input:
        list(FINGERPRINTS.of("curves")["upstream"]),
    output:
        table=report(
            f"{RESULTS}/curves.csv",
            caption="../workflow/report/table_curves.rst",
            category=TABLES,
            labels={"table": "curves"},
        ),
        manifest=f"{RESULTS}/curves.manifest.json",
        run=f"{RESULTS}/curves.run.json",
    log:
        f"{LOGS}/curves.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=FINGERPRINTS.text("curves"),
    message:
        "Tables: loss curves"
    script:
        "../workflow/scripts/curves.py"


rule mask_cells:
    """Which token may attend to which under each mask, and why, on one item of the study."""
    input:
        base=PATHS.base,
        data=f"{PATHS.items}/manifest.json",
    output:
        table=f"{RESULTS}/mask_cells.csv",
        manifest=f"{RESULTS}/mask_cells.manifest.json",
        run=f"{RESULTS}/mask_cells.run.json",
    log:
        f"{LOGS}/mask_cells.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=FINGERPRINTS.text("mask_cells"),
    message:
        "Tables: the three masks on one item"
    script:
        "../workflow/scripts/mask_cells.py"


for figure, tables in PATHS.figures.items():

    rule:
        """One figure as SVG, PNG and HTML; the HTML needs no network."""
        name:
            f"figure_{figure}"
        input:
            list(FINGERPRINTS.behind(tables)),
            tables=[PATHS.table(table) for table in tables],
        output:
            figures=[
                report(
                    f"{RESULTS}/figures/{figure}.svg",
                    caption=f"../workflow/report/figure_{figure}.rst",
                    category=FIGURES,
                    labels={"page": FIRST.figure_title(figure)},
                ),
                f"{RESULTS}/figures/{figure}.png",
                f"{RESULTS}/figures/{figure}.html",
            ],
            manifest=f"{RESULTS}/figures/{figure}.manifest.json",
            run=f"{RESULTS}/figures/{figure}.run.json",
        log:
            f"{LOGS}/figure_{figure}.log",
        localrule: True
        conda:
            "../environment.yml"
        params:
            fingerprint=FINGERPRINTS.text("figures", figure),
        message:
            f"Figures: {figure}"
        script:
            "../workflow/scripts/figures.py"
