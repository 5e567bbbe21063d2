"""The study in hand as the rules see it: configuration, paths and fingerprints, loaded once."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from ablation.config.checks import unpinned
from ablation.config.load import load_study
from ablation.config.merging import DEFAULT, ConfigError
from ablation.config.study import SHARED_BY, Hardware, Study
from ablation.console.printable import printable
from ablation.provenance.run_records import GIT_STATE, git_state, nvml_devices, run_record_path
from ablation.vocabulary.instructions import environment
from ablation.workflow.bridge_fingerprints import BridgeFingerprints
from ablation.workflow.bridge_paths import BridgePaths
from ablation.workflow.command_line import starts_a_run
from ablation.workflow.elsewhere import WrongPlace, link_shipped
from ablation.workflow.generation_fingerprints import GenerationFingerprints
from ablation.workflow.living import StudyLocked, leave_to_other_run, refuse_locked_study
from ablation.workflow.notifications import NOTIFIER
from ablation.workflow.paths import Paths
from ablation.workflow.stopping import JOB_PREFIX, stop_in_three_lines, stop_without_terminal
from ablation.workflow.storage import describe_storage, refuse_absent_data

# Jobs run side by side and print their progress in whole lines, so progress bars of the libraries
# would overwrite each other. Jobs are processes of their own and inherit the environment.
QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}

NAMED = "results/recovery.csv"  # the recovery table of the study that ran last


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """End the process with the message alone: Snakemake would add lines of its own files."""
    try:
        yield
    except (ConfigError, WrongPlace, StudyLocked) as error:
        raise SystemExit(printable(error)) from None


class StudyWorkflow:
    """The study, with everything that rules need to know of it."""

    def __init__(
        self,
        overrides: Mapping,
        root: Path,
        files: Iterable[str | Path],
        main: bool = True,
        in_storage: bool = False,
    ) -> None:
        """`overrides` is Snakemake's `config`; `files` are those given to --configfile.

        main: whether this is the process that the user started, and not one of a job, whose machine
            has only the files that the job reads.
        in_storage: whether the files of rules are in a storage of Snakemake.

        Raises ConfigError for a configuration that cannot be used.
        """
        self.overrides, self.root, self.files = dict(overrides), root, list(files)
        self.main, self.webhook_problem = main, ""
        self.study: Study = load_study(overrides, root / "config", self.files, False, main)
        self.paths = Paths(self.study, root, in_storage)
        self.fingerprints = GenerationFingerprints(self.study, self.paths, root)
        if block := self.study.bridge:
            self.bridge_paths = BridgePaths(self.study, block, in_storage)
            self.bridge = BridgeFingerprints(self.study, block, self.bridge_paths, root)

    @property
    def reported(self) -> str:
        """The results folder of the study that is reported: a study with a bridge reports that."""
        return self.bridge_paths.results if self.study.bridge else self.paths.results

    @property
    def named(self) -> list[str]:
        """The copy of the recovery table, unless another run has locked it."""
        return [] if self.left_to_other_run else [NAMED]

    @cached_property
    def left_to_other_run(self) -> str | None:
        if self.study.bridge or not self.main:
            return None
        return leave_to_other_run(NAMED, f"{self.paths.results}/recovery.csv")

    @property
    def recorded(self) -> list[str]:
        """The manifests whose run records the report shows."""
        return self.bridge.recorded if self.study.bridge else self.fingerprints.recorded

    @property
    def run_records(self) -> list[str]:
        """The run records beside those manifests."""
        return [run_record_path(manifest).as_posix() for manifest in self.recorded]

    def begin(self, workflow: Any, log: logging.Logger, shell: Any) -> None:
        """Check that a real run can succeed, and prepare how it ends early.

        The arguments are Snakemake's workflow, logger and `shell`. Ends Snakemake with a message.
        """
        jobs = workflow.dag.needrun_jobs() if workflow.local_exec else ()
        on_gpus = any(job.resources.get("gpu") for job in jobs)
        self.check(on_gpus)
        NOTIFIER.begin(self.study.study, workflow)
        if not workflow.local_exec:
            stop_without_terminal()
            return
        given = workflow.global_resources
        if on_gpus and "gpu" in given and (hint := hint_of_sharing(given["gpu"].value)):
            log.info(hint)
        stop_counting_jobs(workflow.scheduler)
        stop_in_three_lines(log, self.study.study)
        shell.prefix(JOB_PREFIX)

    @errors_as_messages()
    def check(self, on_gpus: bool) -> None:
        """End Snakemake with a message if a real run cannot succeed.

        It needs a commit of every hub repository, and GPUs, if it has jobs that use some here
        (`on_gpus`). What remains of a study whose results came from elsewhere needs none.
        """
        load_study(self.overrides, self.root / "config", self.files)
        hardware = self.study.hardware
        found = gpus_here(hardware.device) if on_gpus else None
        asked = {"gpu": hardware.gpu // hardware.nodes}
        asked["scoring_gpus"] = hardware.scoring_gpus if hardware.gpu else 0
        key = max(asked, key=asked.__getitem__)
        if found == 0 and hardware.device == "mps" and hardware.gpu:
            raise WrongPlace(
                "hardware.device: mps found, but this machine is no Mac with Apple silicon. "
                "Nothing was started.\nLeave `device` out for a GPU of NVIDIA or AMD, or give "
                "`hardware: {gpu: 0}` for the processor."
            )
        if found is not None and found < asked[key]:
            raise WrongPlace(
                f"hardware.{key}: {asked[key]} found, but this machine has {found} GPUs that "
                "NVIDIA's driver shows. Nothing was started.\n"
                f"{_without_gpus(hardware, found)}, `device: mps` on a Mac, or run where GPUs "
                "are (--profile slurm, docs/vast.md)."
            )

    def _replaces_default(self) -> bool:
        """Whether a file has the default study's name, and other values beside a bridge."""
        if not self.files or self.overrides.get("study") is None:
            return False
        default = load_study({}, self.root / "config", (), False, False)
        same_name = self.study.study == default.study
        values = [study.model_dump(exclude={"bridge"}) for study in (self.study, default)]
        return same_name and values[0] != values[1]

    @property
    def warnings(self) -> list[str]:
        """What the user should know before anything runs."""
        found = [*filter(None, [self.left_to_other_run, self.webhook_problem])]
        if self.files and "study" not in self.overrides:
            named = ", ".join(map(str, self.files))
            found.append(
                f"{named} names no `study:`. Its results replace those of {self.study.study}, in "
                f"results/{self.study.study}/."
            )
        if self._replaces_default():
            named = ", ".join(map(str, self.files))
            found.append(
                f"{named} says `study: {self.study.study}`, the name of the study of "
                f"config/{DEFAULT}, but differs from it. Its results replace those in "
                f"results/{self.study.study}/; give it a name of its own to keep both."
            )
        if lacking := unpinned(self.study, self.root / "config"):
            found.append(
                f"{len(lacking)} hub repositories have no commit yet (pins:). This shows what "
                "would run; a real run needs them: `ablation pin FILE` gets them from the hub."
            )
        return found


def _without_gpus(hardware: Hardware, found: int) -> str:
    """What to write in the study's file where only `found` GPUs are."""
    if found >= hardware.gpu // hardware.nodes:  # they suffice for trainings
        return f"Give `hardware: {{scoring_gpus: {found}}}`, which changes no result"
    keys = ["gpu: 0"]  # with which the checks of the configuration allow no others
    keys += [f"{key}: 1" for key in SHARED_BY if getattr(hardware, key) > 1]
    text = "in the study's file for a small model on the processor"
    return f"Give `hardware: {{{', '.join(keys)}}}` {text}"


def gpus_here(device: str | None = None) -> int | None:
    """How many GPUs NVIDIA's driver shows; None if those of AMD may be here.

    For the device `mps` it is one on a Mac with Apple silicon, none elsewhere.
    """
    if device == "mps":
        return int((platform.system(), platform.machine()) == ("Darwin", "arm64"))
    if Path("/dev/kfd").exists():  # AMD's driver
        return None
    with nvml_devices() as devices:
        return len(devices)


def hint_of_sharing(gpu: int) -> str:
    """What speeds up jobs that share cards, if the resource `gpu` is more than NVIDIA's cards here.

    Empty if MPS seems to run, which is if the file of its process exists. The folder that holds the
    file, and other files in it, are left behind when MPS ends.
    """
    pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps")
    cards = gpus_here() or 0
    if not 0 < cards < gpu or os.path.exists(pipes / "nvidia-cuda-mps-control.pid"):
        return ""
    return (
        f"gpu={gpu} on a machine with {cards} GPU{'s' * (cards > 1)}: jobs will share a GPU. Small "
        "jobs then run faster if NVIDIA's MPS was started before Snakemake (docs/performance.md)."
    )


@errors_as_messages()
def start(
    overrides: dict, snakefiles: str | Path, files: Iterable[str | Path], workflow: Any
) -> StudyWorkflow:
    """Load the study for the rules in the folder `snakefiles`, below the root of the repository.

    overrides: Snakemake's `config`; it gets `keep_states` and `tracking`, which change no
        result, and the places of the user's data, whose content is in fingerprints.
    workflow: Snakemake's own, for its default storage provider, None without one, and whether this
        is the process that the user started.

    Ends the process with a message where paths in manifests would lead elsewhere, and for a
    configuration that cannot be used.
    """
    root = Path(snakefiles).parent
    if workflow.is_main_process and not (root.is_dir() and root.samefile(".")):
        link_shipped(root)
        os.environ[GIT_STATE] = json.dumps(
            git_state(root)
        )  # the folder may have a commit of its own
    in_storage = describe_storage(workflow, root)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    loaded = StudyWorkflow(overrides, root, files, workflow.is_main_process, in_storage)
    loaded.webhook_problem = NOTIFIER.take(os.environ)
    if in_storage:
        refuse_absent_data(loaded.study)
    if workflow.is_main_process and starts_a_run(sys.argv[1:]):
        refuse_locked_study(loaded.reported, loaded.study.study)
        if NAMED in sys.argv and not loaded.named:
            own = f"{loaded.paths.results}/{Path(NAMED).name}"
            raise StudyLocked(f"{loaded.left_to_other_run}\nNothing was started; request {own}.")
    hardware = loaded.study.hardware
    if not hardware.gpu:  # torch and numpy read them when a job imports them
        os.environ |= environment(hardware.instructions)
    overrides |= _for_jobs(loaded.study, overrides)
    return loaded


def _for_jobs(study: Study, overrides: Mapping) -> dict[str, Any]:
    """What jobs read of the study, though fingerprints leave it out, as keys of a study's file.

    Hooks load the study from Snakemake's `config` again, so there may be no other keys.
    """
    added: dict[str, Any] = {"keep_states": study.keep_states, "tracking": study.tracking}
    if folder := study.evaluation.data_folder:
        added["evaluation"] = {**overrides.get("evaluation", {}), "data_folder": folder}
    if data := study.local_instructions:
        added["instructions"] = {**overrides.get("instructions", {}), "data": data}
    return added


def stop_counting_jobs(scheduler: Any) -> None:
    """Take away the limit of jobs a second, of which a run on this machine has no need.

    With a limit, Snakemake 9.27 looks at all jobs again a second after each look, and has one such
    chain for every job that has ended: after 100 jobs they take a quarter of a core.
    """
    scheduler.job_rate_limiter = None
