"""Snakemake's own test kit for executors, against the fake."""

import pytest
from fakes.vast import FakeVast, what_is_missing
from snakemake.common.tests import TestWorkflowsLocalStorageBase
from snakemake_executor_plugin_vast import ExecutorSettings
from vast_support.workflows import SCALE, SETTINGS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing() or ""),
]


class TestKit(TestWorkflowsLocalStorageBase):
    __test__ = True

    @pytest.fixture(autouse=True)
    def service(self, monkeypatch):
        with FakeVast(time_scale=SCALE) as fake:
            for name, value in fake.environment.items():
                monkeypatch.setenv(name, value)
            yield
            assert not fake.instances

    def get_executor(self) -> str:
        return "vast"

    def get_executor_settings(self) -> ExecutorSettings:
        chosen = {name.replace("-", "_"): value for name, value in SETTINGS.items()}
        return ExecutorSettings(cpu_jobs="rent", **chosen)

    def get_assume_shared_fs(self) -> bool:
        return False
