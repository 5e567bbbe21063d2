"""Fixtures of every folder of tests."""

import gc
import os

import pytest
from snakemake_report_plugin_runcrate.testing import crate_findings  # noqa: F401

from tests import preloaded

# In which order files begin: the micro study, then what takes long. What looks at the micro study
# on any worker is last, when it is made.
FIRST = """
test_micro_study test_bridge_pipeline test_any_model test_several_ranks
test_resume test_gpu_benchmark test_rehearsal_study test_hub_study test_provenance_study
""".split()
LAST = ["test_staleness"]
# Plugins' tests whose runs of Snakemake are forks of a process that has imported it.
PRELOADED = ["test_live_snakemake", "test_runcrate_workflow"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests that share what a fixture of their file made stay together; long ones begin first.

    Without a group every worker would make it again.
    """
    for item in items:
        fixtures = [found[-1] for found in item._fixtureinfo.name2fixturedefs.values()]
        shares = any(fixture.scope == "module" for fixture in fixtures)
        if shares and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    place = {name: number for number, name in enumerate([*FIRST, "", *LAST])}
    items.sort(key=lambda item: place.get(item.path.stem, place[""]))


def pytest_collection_finish():
    """What was imported is there to stay: the garbage collector need not walk through it again."""
    gc.collect()
    gc.freeze()


class PreloadedForPlugins:
    """Plugins' tests know nothing of the server: it is in their environment."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        if item.path.stem not in PRELOADED:
            return (yield)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(preloaded.VARIABLE, preloaded.servers())
            patch.setenv("PYTHONPATH", preloaded.START, prepend=os.pathsep)
            return (yield)


def pytest_configure(config):
    """A hook of this file would see the tests of this folder alone."""
    config.pluginmanager.register(PreloadedForPlugins())
