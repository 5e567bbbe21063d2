"""Adds the workflow to the wheel, so that `pip install` brings the command line and the rules.

hatchling calls this hook (pyproject.toml). In a wheel the workflow is in ablation/pipeline, laid
out as in the repository, so that paths and hashes of code are the same from both. An editable
install uses the repository itself.
"""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INSTALLED = "ablation/pipeline"
SHIPPED = (
    *("Snakefile", "rules", "workflow", "config", "profiles", "resources"),
    *("environment.yml", "environment.post-deploy.sh", "benchmarks/results/h100.json"),
)
COMMIT_FILE = ".git_archival.txt"  # the name and form of the file that `git archive` writes


class Workflow(BuildHookInterface):
    """Adds `SHIPPED` and the commit, which run records name, to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add them to the files of the wheel."""
        if version != "standard":
            return
        self.folder = tempfile.TemporaryDirectory()
        commit = Path(self.folder.name, COMMIT_FILE)
        commit.write_text(f"{clean_commit(self.root)}\n", "utf-8")
        added = {str(Path(self.root, name)): f"{INSTALLED}/{name}" for name in SHIPPED}
        build_data["force_include"] |= added | {str(commit): f"{INSTALLED}/{COMMIT_FILE}"}

    def finalize(self, version: str, build_data: dict[str, Any], artifact: str) -> None:
        """Remove the file of the commit."""
        if version == "standard":
            self.folder.cleanup()


def clean_commit(root: str) -> str:
    """The commit of the repository `root`, or `unknown` where files differ from it."""
    git = ["git", "-C", root]
    if not Path(root, ".git").exists():  # a source distribution, perhaps inside another repository
        return "unknown"
    said = {"capture_output": True, "encoding": "utf-8"}
    changed = subprocess.run([*git, "status", "--porcelain"], **said)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], **said)
    found = changed.returncode == commit.returncode == 0 and not changed.stdout.strip()
    return commit.stdout.strip() if found else "unknown"
