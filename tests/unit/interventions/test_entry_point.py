"""Promise: another distribution brings a kind of its own, by an entry point."""

import os
import subprocess
import sys
from pathlib import Path

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


def test_a_kind_of_another_distribution_is_used_hashed_and_seen_in_force(tmp_path):
    information = tmp_path / "quieter-3.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(METADATA)
    (information / "entry_points.txt").write_text(ENTRY)
    (tmp_path / "quieter_settings.py").write_text(SETTINGS)
    (tmp_path / "quieter_kind.py").write_text(KIND)
    search = os.pathsep.join([str(tmp_path), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "hush {'left': 0.0}\n", done.stderr
