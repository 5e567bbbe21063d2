"""Helpers: a run that is half done, and Snakemake started with the plugin on a small workflow."""

import os
import subprocess
import sys
from pathlib import Path

from snakemake_logger_plugin_live.run import Run

SOURCES = Path(__file__).resolve().parent.parent / "src"

FOREIGN = """
rule all:
    input: "report.txt"

rule align:
    output: "{sample}.bam"
    log: "{sample}.log"
    shell:
        "echo 'reads: 40/120 (33 %) 1.2 M, 14 s left' | tee {log} >&2; "
        "echo a remark on {wildcards.sample} >&2; touch {output}"

rule report:
    input: "A.bam", "B.bam"
    output: "report.txt"
    message: "Writing the report"
    shell: "touch {output}"
"""


def half_done():
    """Of 4 + 2 jobs two are done, 10 s each one after the other, and one runs since 20 s."""
    run = Run()
    run.plan({"align": 4, "report": 2, "total": 6})
    for number, began in enumerate((0.0, 10.0)):
        run.start(number, "align", "align sample=A", [], began)
        run.finish(number, began + 10.0)
    run.start(2, "align", "Aligning all reads of sample C, lane 7", ["no such log"], 20.0)
    return run


def start_snakemake(folder, *options, workflow=FOREIGN, python=sys.executable, **streams):
    """A process of Snakemake with `--logger live` in `folder`."""
    (folder / "Snakefile").write_text(workflow)
    command = [str(python), "-m", "snakemake", "--cores", "1", "--logger", "live", *options]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    if python == sys.executable:
        search = [str(SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(search)
    return subprocess.Popen(command, cwd=folder, env=environment, **streams)


def shown(terminal):
    """All that a process writes to the pseudo-terminal whose own end is `terminal`."""
    output = b""
    try:
        while more := os.read(terminal, 4096):
            output += more
    except OSError:  # the process has closed the other end
        pass
    return output.decode()
