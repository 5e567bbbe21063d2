"""Promise: another distribution brings a kind of its own, by an entry point."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
METADATA = "Metadata-Version: 2.1\nName: quieter\nVersion: 3.1\n"
ENTRY = "[ablation.interventions]\nquiet = quieter_settings:Quiet\n"
SETTINGS = '''
from typing import ClassVar, Literal
from ablation.config.fields import described_field
from ablation.config.interventions import InterventionSettings


class Quiet(InterventionSettings):
    """The feed-forward block of a layer adds nothing."""

    implementation: ClassVar[str] = "quieter_kind:QuietBlock"
    kind: Literal["quiet"]
    layer: int = described_field("The layer.", ge=0)
'''
KIND = """
from ablation.interventions.anatomy import layers_of
from ablation.interventions.protocol import Intervention


class QuietBlock(Intervention):
    def take_away(self, model):
        layers_of(model)[self.settings.layer].mlp.down_proj.weight.data.zero_()
        return {}

    def audit(self, model):
        left = float(layers_of(model)[self.settings.layer].mlp.down_proj.weight.abs().max())
        if left:
            raise self.not_in_force(model, f"{left} left")
        return {"left": left}
"""
USE = """
import sys
from pathlib import Path
from ablation.workflow.load import StudyWorkflow

recipes = {"3A": {"train_mask": "causal"}, "3B-hush": {"train_under": "hush"}}
values = {"interventions": {"hush": {"kind": "quiet", "layer": 1}}, "recipes": recipes}
loaded = StudyWorkflow(values, Path.cwd(), [])
assert "torch" not in sys.modules and "quieter_kind" not in sys.modules
made = loaded.fingerprints.of("stage2_intervention", "hush")
assert made["packages"]["quieter"] == "3.1", made["packages"]
assert "quieter" not in loaded.fingerprints.of("stage1_baseline")["packages"]

from ablation.interventions.registry import of_job
from tests.support.tiny import tiny_model

taken, model = of_job(made["config"]), tiny_model("llama")
taken.apply(model)
print(taken.name, taken.audit(model))
"""


LOAD = """
import sys
from ablation.config.load import load_study
from ablation.config.merging import ConfigError

load_study({})
kind = {"kind": "quiet", "layer": 1} if sys.argv[1] == "quiet" else {"kind": "positions"}
try:
    load_study({"interventions": {"hush": kind}})
except ConfigError as error:
    print(str(error).splitlines()[-1])
"""
BROKEN = """
from ablation.interventions.protocol import Intervention
Number = int
class Deaf(Intervention):
    def take_away(self, model):
        return {}
"""
MAKE = """
import sys
from ablation.config.interventions import KINDS
from ablation.interventions.registry import make
for implementation in sys.argv[1:]:
    KINDS["quiet"].implementation = implementation
    try:
        make("hush", {"kind": "quiet", "layer": 1})
    except ValueError as error:
        print(error)
"""


def run(folder, code, *arguments, entry=ENTRY, settings=SETTINGS, kind=KIND):
    """What `code` prints with a distribution of a kind installed in `folder`."""
    information = folder / "quieter-3.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(METADATA)
    (information / "entry_points.txt").write_text(entry)
    (folder / "quieter_settings.py").write_text(settings)
    if kind:
        (folder / "quieter_kind.py").write_text(kind)
    search = os.pathsep.join([str(folder), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_kind_of_another_distribution_is_used_hashed_and_seen_in_force(tmp_path):
    assert run(tmp_path, USE) == "hush {'left': 0.0}\n"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"settings": "import no_such"}, "ModuleNotFoundError: No module named 'no_such'"),
        ({"settings": "1 +"}, "SyntaxError: "),
        ({"settings": "x = 1"}, "AttributeError: .* has no attribute 'Quiet'"),
        ({"settings": "Quiet = int"}, "it is <class 'int'>, and no subclass of .*Settings"),
        ({"settings": SETTINGS.replace('Literal["quiet"]', "str")}, r"Literal\['quiet'\] was exp"),
        ({"settings": SETTINGS.replace('"quiet"', '"still"')}, r"Literal\['quiet'\] was expected"),
        (
            {"settings": SETTINGS.replace("implementation: ClassVar[str] =", "other: ClassVar =")},
            "`implementation` of Quiet is None, and `module:class` was expected",
        ),
        ({"settings": SETTINGS.replace("layer: int", "layer: Nothing")}, "NameError|not fully def"),
        ({"kind": ""}, "no module quieter_kind, which `implementation` of Quiet names"),
    ],
)
def test_a_broken_kind_is_refused_by_its_entry_point_and_distribution(changes, message, tmp_path):
    found = run(tmp_path, LOAD, "quiet", **changes)
    named = "hush .*: kind 'quiet' found, but its entry point quiet = quieter_settings:Quiet"
    assert re.search(f"{named} of quieter 3.1 cannot be used: .*({message})", found), found


def test_a_second_kind_of_the_same_name_is_refused(tmp_path):
    entry, settings = (text.replace("quiet =", "positions =") for text in (ENTRY, SETTINGS))
    settings = settings.replace('"quiet"', '"positions"')
    found = run(tmp_path, LOAD, "positions", entry=entry, settings=settings)
    assert "of quieter 3.1 cannot be used: there is another kind of this name" in found


def test_a_broken_implementation_is_refused_when_it_is_loaded(tmp_path):
    messages = {
        "quieter_kind.inner:Deaf": "ModuleNotFoundError: No module named 'quieter_kind.inner'",
        "quieter_kind:Quiet": "AttributeError: module 'quieter_kind' has no attribute 'Quiet'",
        "quieter_kind:Number": "it is <class 'int'>, and no subclass of ablation.interventions",
        "quieter_kind:Deaf": "Deaf has no `audit`",
    }
    found = run(tmp_path, MAKE, *messages, kind=BROKEN).splitlines()
    for line, (named, message) in zip(found, messages.items(), strict=True):
        where = f"hush: the implementation {named} of kind 'quiet', of quieter, cannot be used"
        assert line.startswith(f"{where}: {message}"), line
