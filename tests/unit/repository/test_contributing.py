"""Each recipe of CONTRIBUTING.md, performed in a copy by touching only the files that it names."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MEMORY_MARKET = ROOT / "packages/snakemake-executor-plugin-vast/tests/vast_support/memory_market.py"


def files_of(recipe):
    """The files that a recipe names, in their order."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.split(f"### {recipe}\n")[1].split("\n### ")[0]
    return re.findall(r"`([^`]+)`", re.search(r"^Files: (.*)$", section, re.M)[1])


class Copy:
    """The repository, as a fresh clone would hold it, in which a recipe is performed."""

    def __init__(self, folder, recipe):
        self.folder, self.left = folder, files_of(recipe)
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        for name in filter(None, listed.split("\0")):
            source, target = ROOT / name, folder / name
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source.resolve())  # only what a recipe edits is copied

    def edit(self, old, new):
        """Replace text in the next file that the recipe names; `old` None: the file is new."""
        file = self.folder / self.left.pop(0)
        text = ""
        if old is not None:
            text = file.read_text()
            assert old in text, f"{file} does not hold {old!r}"
            file.unlink()
        assert not file.exists()
        file.write_text(text.replace(old, new, 1) if old else new)

    def run(self, *command):
        assert not self.left, f"the recipe names {self.left} too, which nothing here needs"
        packages = [str(path / "src") for path in (self.folder / "packages").iterdir()]
        search = os.pathsep.join([str(self.folder / "src"), *packages])
        environment = os.environ | {"PYTHONPATH": search, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, code):
        return self.run("-c", code).strip().splitlines()[-1]


@pytest.fixture
def copy(tmp_path, request):
    return Copy(tmp_path / "copy", request.param)


def performs(recipe):
    return pytest.mark.parametrize("copy", [recipe], indirect=True, ids=[recipe.replace(" ", "_")])


@performs("A new task")
def test_a_new_task_can_be_scored(copy):
    like = (ROOT / "config/tasks/micro_piqa.yaml").read_text()
    copy.edit(None, like.replace("task: micro_piqa", "task: my_task"))
    code = (
        "from ablation.config.load import load_study\n"
        "study = load_study({'evaluation': {'tasks': ['micro_piqa', 'my_task']}})\n"
        "print(study.evaluation.tasks)"
    )
    assert copy.python(code) == "['micro_piqa', 'my_task']"


@performs("A new metric")
def test_a_new_metric_is_computed_and_can_be_the_studys(copy):
    copy.edit("_TABLE = (\n", '_TABLE = (\n    Metric("acc_any", per="characters"),\n')
    code = (
        "import pandas as pd\n"
        "from ablation.analysis.metrics import metrics_from_samples\n"
        "from ablation.config.load import load_study\n"
        "assert load_study({'evaluation': {'metric': 'acc_any'}}).evaluation.metric == 'acc_any'\n"
        "rows = [dict(task='t', doc_id=0, doc_hash='h', choice=c, gold=1, loglikelihood=-4.0,\n"
        "    loglikelihood_float32=-4.0, tokens=1, characters=1 + 3 * c, bytes=1,\n"
        "    truncated=False)\n"
        "    for c in (0, 1)]\n"
        "found = metrics_from_samples(pd.DataFrame(rows))\n"
        "print(found['t']['acc'], found['t']['acc_any'])"
    )
    assert copy.python(code) == "0.0 1.0"


@performs("A new mask")
def test_a_new_mask_is_in_force_and_audited(copy):
    copy.edit(
        "_TABLE = (\n",
        '_TABLE = (\n    Mask("all_bidir", True, True, leaks=True),\n',
    )
    copy.edit(
        "MASK_RULES: dict[str, MaskRule] = {\n",
        "MASK_RULES: dict[str, MaskRule] = {\n"
        '    "all_bidir": MaskRule(branch_path=torch.zeros_like, sees_ahead=_every_token),\n',
    )
    code = (
        "from ablation.config.load import load_study\n"
        "from ablation.model.leak_audit import leak_audit\n"
        "from ablation.vocabulary.stages import STAGES\n"
        "from tests.support.tiny import tiny_model\n"
        "assert 'all_bidir' in STAGES['stage4_posteval'].masks\n"
        "print(leak_audit(tiny_model('llama'), 'all_bidir').leaks)"
    )
    assert copy.python(code) == "True"


SILENT_SETTINGS = """class Silent(InterventionSettings):
    \"\"\"The feed-forward block of a layer adds nothing.\"\"\"

    implementation: ClassVar[str] = "ablation.interventions.my_kind:SilencedBlock"
    kind: Literal["my_kind"]
    layer: int = described_field("The layer.", ge=0)


BUILT_IN: tuple[type[InterventionSettings], ...] = (
    *(Silent, """
SILENT = """\"\"\"The kind `my_kind`: the feed-forward block of a layer adds nothing.\"\"\"

import torch

from ablation.interventions.anatomy import layers_of
from ablation.interventions.protocol import Intervention


class SilencedBlock(Intervention):
    def take_away(self, model):
        self.constrain(model)
        return {}

    @torch.no_grad()
    def constrain(self, model):
        layers_of(model)[self.settings.layer].mlp.down_proj.weight.zero_()

    def audit(self, model):
        block = layers_of(model)[self.settings.layer].mlp
        added = float(block(torch.ones(1, 1, model.config.hidden_size)).abs().max())
        if added:
            raise self.not_in_force(model, f"its block added {added}")
        return {"added": added}
"""


@performs("A new kind of intervention")
def test_a_new_kind_is_configured_hashed_and_in_force(copy):
    tuple_ = "BUILT_IN: tuple[type[InterventionSettings], ...] = (\n    *("
    copy.edit(tuple_, SILENT_SETTINGS)
    copy.edit(None, SILENT)
    code = (
        "from pathlib import Path\n"
        "from ablation.config.study import ComputeSettings\n"
        "from ablation.interventions.loading import load_under\n"
        "from ablation.interventions.registry import make\n"
        "from ablation.workflow.load import StudyWorkflow\n"
        "recipes = {'3A': {'train_mask': 'causal'}, '3B-quiet': {'train_under': 'quiet'}}\n"
        "quiet = {'quiet': {'kind': 'my_kind', 'layer': 1}}\n"
        "values = {'interventions': quiet, 'recipes': recipes}\n"
        "study = StudyWorkflow(values, Path.cwd(), []).study\n"
        "small = ComputeSettings(gpu=0, threads=1, dtype='float32', attention='sdpa', "
        "compile=False)\n"
        "taken = make('quiet', study.intervention('quiet'))\n"
        "model, _ = load_under(small, 'resources/micro/base', taken)\n"
        "print(study.scored_under('3A'), taken.audit(model))"
    )
    assert copy.python(code) == "['quiet'] {'added': 0.0}"


@performs("A new recipe")
def test_a_new_recipe_is_trained_in_its_stage(copy):
    copy.edit(
        "_TABLE = (\n",
        '_TABLE = (\n    Recipe("6A", "causal", "stage3_finetune", "a control of the control"),\n',
    )
    code = (
        "from pathlib import Path\n"
        "from ablation.config.load import load_study\n"
        "from ablation.workflow.paths import Paths\n"
        "study = load_study({'recipes': {'6A': {'train_mask': 'causal'}}})\n"
        "print(Paths(study, Path()).checkpoint('6A', 31))"
    )
    assert copy.python(code) == "results/micro/stage3_finetune/6A/seed31/manifest.json"


STAGE = '''

rule my_stage:
    """One line for each item of the study."""
    localrule: True
    input:
        data=f"{PATHS.items}/manifest.json",
    output:
        table=f"{RESULTS}/my_stage.csv",
        manifest=f"{RESULTS}/my_stage.manifest.json",
        run=f"{RESULTS}/my_stage.run.json",
    log:
        f"{LOGS}/my_stage.log",
    conda:
        "../environment.yml"
    params:
        fingerprint=FINGERPRINTS.text("my_stage"),
    script:
        "../workflow/scripts/my_stage.py"
'''
SCRIPT = '''"""Write one line for each item of the study."""

from pathlib import Path

from ablation.provenance.files import write_text
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    items = sorted(Path(job.input.data).parent.glob("*.jsonl"))
    lines = [f"{path.stem},{len(path.read_text().splitlines())}" for path in items]
    write_text(job.output.table, "\\n".join(["task,items", *lines]) + "\\n")
    job.write_manifest([job.output.table])


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
'''


@performs("A new stage")
def test_a_new_stage_runs_with_its_provenance(copy):
    copy.edit(
        "_TABLE = [\n", '_TABLE = [\n    Stage("my_stage", "recovery", "table", "my_stage"),\n'
    )
    copy.edit(
        "    def _bag_of_words(self)",
        "    def _my_stage(self) -> Slice:\n"
        '        return {"study": self.study.study}, self.world_items\n\n'
        "    def _bag_of_words(self)",
    )
    copy.edit(None, SCRIPT)
    rules = (copy.folder / copy.left[0]).read_text()
    copy.edit(rules, rules + STAGE)
    copy.run("-m", "snakemake", "--cores", "2", "-q", "all", "--", "results/micro/my_stage.csv")
    results = copy.folder / "results/micro"
    assert "micro_piqa,300" in (results / "my_stage.csv").read_text()
    manifest = json.loads((results / "my_stage.manifest.json").read_text())
    assert manifest["fingerprint"]["stage"] == "my_stage"
    assert list(manifest["inputs"]) == ["results/micro/base/items/manifest.json"]
    assert (results / "my_stage.run.json").is_file()


@performs("A new table column")
def test_a_new_column_is_in_the_table(copy):
    entry = 'Column("error", "1 - P.", lambda row: 1 - row.p)'
    copy.edit("_TABLE = (\n", f"_TABLE = (\n    {entry},\n")
    code = (
        "import pandas as pd\n"
        "from ablation.analysis.conditions import Condition\n"
        "from ablation.analysis.recovery import study_tables, table\n"
        "from tests.unit.analysis.test_recovery import CONFIG, study\n"
        "frame = table(study_tables(study(), CONFIG)[0])\n"
        "print((frame.error + frame.after - 1).abs().max() < 1e-12)"
    )
    assert copy.python(code) == "True"


@performs("A new market")
def test_a_new_market_is_found(copy):
    copy.edit(None, MEMORY_MARKET.read_text())
    code = (
        "from pathlib import Path\n"
        "from snakemake_executor_plugin_vast.clock import Clock\n"
        "from snakemake_executor_plugin_vast.market import find_market\n"
        "key = {'MEMORY_MARKET_KEY': 'k'}\n"
        "market = find_market('my_market').connect(key, Path(), Clock(1.0))\n"
        "print(len(market.search(None, None)))"
    )
    assert copy.python(code) == "1"
