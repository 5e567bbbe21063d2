"""Snakemake's own tests of report plugins (`snakemake.common.tests.TestReportBase`)."""

import json
import shutil

from snakemake.common.tests import TestReportBase
from snakemake_report_plugin_runcrate import ReportSettings


class TestReport(TestReportBase):
    """The kit asks for a report of a workflow that has never run; this one runs it first.

    Without a run, Snakemake refuses every reporter, its own included, because outputs that the
    kit's workflows mark with report() are missing.
    """

    __test__ = True

    def get_reporter(self):
        return "runcrate"

    def get_report_settings(self):
        return ReportSettings()

    def run_workflow(self, test_name, tmp_path, deployment_method=frozenset()):
        for self.create_report in (False, True):
            super().run_workflow(test_name, tmp_path, deployment_method)
        crate = json.loads((tmp_path / test_name / "ro-crate-metadata.json").read_text())
        assert "test3.out" in {entity["@id"] for entity in crate["@graph"]}

    def _copy_test_files(self, test_path, tmp_path):
        shutil.copytree(test_path, tmp_path, dirs_exist_ok=True)


class TestReportWithoutSettings(TestReport):
    def get_report_settings(self):
        return None
