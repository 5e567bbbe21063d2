# Figures: every one is drawn from tables that stand beside it in results/<study>/.
# Needs stages 1 to 4 and the recovery tables; makes {flips,curves,mask_cells}.csv and figures/.


localrules:
    flips,
    curves,
    mask_cells,


# Menus of the report are in alphabetical order, hence the numbers.
FIGURE_TITLES = {
    "recovery": "2.1 Recovered fraction",
    "accuracy": "2.2 Accuracy",
    "flips": "2.3 What became of each item",
    "curves": "2.4 Loss curves",
    "masks": "2.5 The three masks",
}


rule flips:
    """What became of each item: right or wrong before, under the mask and after finetuning."""
    input:
        list(measured()),
    output:
        table=report(
            f"{RESULTS}/flips.csv",
            caption="../workflow/report/table_flips.rst",
            category="5 Tables as CSV",
            labels={"table": "flips"},
        ),
        manifest=f"{RESULTS}/flips.manifest.json",
        run=f"{RESULTS}/flips.run.json",
    log:
        f"{LOGS}/flips.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(flips_stamp()),
    message:
        "Tables: which items were lost, which came back"
    script:
        "../workflow/scripts/flips.py"


rule curves:
    """Every logged loss of every finetuning (nats a response token), its resumes and its stop."""
    input:
        list(curves_stamp()["upstream"]),
    output:
        table=report(
            f"{RESULTS}/curves.csv",
            caption="../workflow/report/table_curves.rst",
            category="5 Tables as CSV",
            labels={"table": "curves"},
        ),
        manifest=f"{RESULTS}/curves.manifest.json",
        run=f"{RESULTS}/curves.run.json",
    log:
        f"{LOGS}/curves.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(curves_stamp()),
    message:
        "Tables: loss curves"
    script:
        "../workflow/scripts/curves.py"


rule mask_cells:
    """Which token may look at which under each mask, and why, on one item of the study."""
    input:
        base=BASE,
        data=f"{ITEMS}/manifest.json",
    output:
        table=f"{RESULTS}/mask_cells.csv",
        manifest=f"{RESULTS}/mask_cells.manifest.json",
        run=f"{RESULTS}/mask_cells.run.json",
    log:
        f"{LOGS}/mask_cells.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(mask_cells_stamp()),
    message:
        "Tables: the three masks on one item"
    script:
        "../workflow/scripts/mask_cells.py"


for figure, tables in FIGURES.items():

    rule:
        """One figure; the html needs no network."""
        name:
            f"figure_{figure}"
        input:
            list(table_manifests(FIGURES[figure])),
            tables=expand(f"{RESULTS}/{{table}}.csv", table=tables),
        output:
            report(
                f"{RESULTS}/figures/{figure}.svg",
                caption=f"../workflow/report/figure_{figure}.rst",
                category="2 Figures",
                labels={"page": FIGURE_TITLES[figure]},
            ),
            expand(f"{RESULTS}/figures/{figure}.{{form}}", form=("png", "html")),
            manifest=f"{RESULTS}/figures/{figure}.manifest.json",
            run=f"{RESULTS}/figures/{figure}.run.json",
        log:
            f"{LOGS}/figure_{figure}.log",
        localrule: True
        conda:
            "../environment.yml"
        params:
            stamp=provenance.canonical_json(figure_stamp(figure)),
        message:
            f"Figures: {figure}"
        script:
            "../workflow/scripts/figures.py"
