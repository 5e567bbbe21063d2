"""Promises of Snakemake's own share in a run: it does not grow with the jobs that have ended."""

import inspect
from types import SimpleNamespace

from snakemake.scheduling.job_scheduler import JobScheduler

from ablation.workflow.load import stop_counting_jobs


def test_a_run_on_this_machine_looks_at_its_jobs_only_when_one_has_ended():
    scheduler = SimpleNamespace(job_rate_limiter=object(), resources={})
    stop_counting_jobs(scheduler)
    assert scheduler.job_rate_limiter is None
    # Snakemake plans another look for later only with such a limit.
    code = inspect.getsource(JobScheduler.schedule)
    assert code.count("self._schedule_reevalutation(self.job_rate_limiter.timespan)") == 1
    assert "if self.job_rate_limiter is not None:" in code
