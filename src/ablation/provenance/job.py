"""What all scripts of the workflow share: log, run record, verified inputs and manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablation.console.progress import copy_output_to
from ablation.provenance.cards import own_cards
from ablation.provenance.endings import reported_once, told_in_three_lines
from ablation.provenance.manifests import read_inputs, verify_history, write_manifest
from ablation.provenance.run_records import TRACKING, run_record
from ablation.provenance.storage.copies import bring_outputs, working_in_copies
from ablation.provenance.storage.states import state_in_storage

if TYPE_CHECKING:
    import pandas as pd


class Job:
    """A job of Snakemake, as its script uses it.

    input, output, params, wildcards, rule: the attributes of Snakemake's job.
    options: Snakemake's `config`.
    gpus, nodes: how many GPUs the job may use, and on how many machines.
    fingerprint: the fingerprint of the job; empty for a rule without one.
    config: the part of the configuration that is in the fingerprint.
    inputs: {path: manifest} of all inputs that have a manifest, each one verified.
    record: further entries for the run record, which the script adds.
    """

    def __init__(self, snakemake: Any, only: Iterable[str] | None = None) -> None:
        """Verify the inputs; `only` is explained at `run`. Raises StaleInput."""
        self.input, self.output = snakemake.input, snakemake.output
        self.params, self.wildcards = snakemake.params, snakemake.wildcards
        self.rule, self.options = snakemake.rule, snakemake.config
        self.gpus, self.nodes = gpus_and_nodes(snakemake.resources)
        text = snakemake.params.get("fingerprint")
        self.fingerprint: dict[str, Any] = json.loads(text) if text else {}
        self.config: dict[str, Any] = self.fingerprint.get("config", {})
        self.record: dict[str, Any] = {}
        upstream = None if only is None else set(only)
        bring_outputs(self.fingerprint.get("upstream", ()), upstream)
        self.inputs = read_inputs(self.fingerprint, upstream) if self.fingerprint else {}

    @property
    def home(self) -> Path:
        """The folder that contains the job's manifest."""
        return Path(self.output.manifest).parent

    def write_table(self, path: str | Path, frame: pd.DataFrame) -> None:
        """Write a table, marked if it rests on code that was accepted by a reason alone."""
        from ablation.provenance.tables import marked, write_table  # pandas is slow to import

        write_table(path, marked(frame, self.fingerprint.get("unchecked", ())))

    def write_manifest(self, outputs: Iterable[str | Path], **facts: object) -> None:
        """Write the manifest of the job, which lists these outputs and contains `facts`."""
        write_manifest(self.output.manifest, self.fingerprint, outputs, **facts)


def gpus_and_nodes(resources: Any) -> tuple[int, int]:
    """The numbers of GPUs and of machines that Snakemake's resources give to a job."""
    return int(resources.get("gpu", 0)), int(resources.get("nodes", 1))


def run(
    main: Callable[[Job], None],
    snakemake: Any,
    only: Iterable[str] | None = None,
    history: bool = False,
) -> None:
    """Run the `main` of a script, with a log, and with a run record if the rule declares one.

    The inputs are verified first. If `only` is given, these files are verified and the other
    outputs of upstream jobs may be missing, such as weights that were left on another machine.
    With `history`, everything that the inputs were made from is verified too.

    With a storage of Snakemake, `snakemake` gets the paths of a run without one.
    """
    with working_in_copies(snakemake):
        _run(main, snakemake, only, history)


def _run(
    main: Callable[[Job], None], snakemake: Any, only: Iterable[str] | None, history: bool
) -> None:
    record, (gpus, nodes) = snakemake.output.get("run"), gpus_and_nodes(snakemake.resources)
    recorded: AbstractContextManager[dict] = run_record(record) if record else nullcontext({})
    ends, cards = told_in_three_lines(snakemake.rule), own_cards(gpus // nodes)
    log = copy_output_to(snakemake.log[0])
    with reported_once(), log, ends, cards, recorded as facts:
        job = Job(snakemake, only)
        if history:
            bring_outputs(job.inputs, history=True)
            verify_history(job.inputs.values())
        job.record = facts
        _name_trackers(job)
        with state_in_storage(snakemake.params.get("state")):
            main(job)


def _name_trackers(job: Job) -> None:
    """Tell the trainings of this process in which trackers they are shown, and as what."""
    os.environ.pop(TRACKING, None)
    asked, manifest = job.options.get("tracking"), job.output.get("manifest")
    if asked and manifest:
        named = {"study": Path(manifest).parts[1], "manifest": manifest}  # results/<study>/...
        named |= {"trackers": asked, "fingerprint": job.fingerprint["hash"]}
        os.environ[TRACKING] = json.dumps(named)
