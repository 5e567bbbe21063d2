"""`--executor pods`: jobs of a cluster that shares no folder with us, such as Kubernetes.

Each job is a process in an empty folder, which gets nothing but a command line and the variables
that Snakemake says a job needs. Sources and files come from the storage, as on a real cluster.

    PODS           the folder in which the folders of jobs are made, each with `pid` and `said.txt`
    PODS_IMAGE     PYTHONPATH of jobs: what the image of a real cluster has installed
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=True,
    job_deploy_sources=True,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
)


class Executor(RemoteExecutor):
    """Starts jobs, and polls once a second which have ended."""

    def __post_init__(self):
        self.next_seconds_between_status_checks = 1

    def run_job(self, job):
        pod = Path(tempfile.mkdtemp(prefix=f"{job.name}-", dir=os.environ["PODS"]))
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.environ["PODS_IMAGE"],
            "HOME": str(pod / "home"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **self.envvars(),
        }
        (pod / "work").mkdir()
        with open(pod / "said.txt", "wb") as said:
            process = subprocess.Popen(
                ["bash", "-c", self.format_job_exec(job)],
                cwd=pod / "work",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        (pod / "pid").write_text(str(process.pid))
        self.report_job_submission(SubmittedJobInfo(job, str(process.pid), {"process": process}))

    async def check_active_jobs(self, active_jobs):
        for info in active_jobs:
            ended = info.aux["process"].poll()
            if ended is None:
                yield info
            elif ended == 0:
                self.report_job_success(info)
            else:
                self.report_job_error(info, msg=f"the pod ended with {ended}")

    def cancel_jobs(self, active_jobs):
        for info in active_jobs:
            os.killpg(info.aux["process"].pid, 15)
