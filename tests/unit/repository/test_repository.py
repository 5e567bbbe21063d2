"""Promises of the repository: one set of pins, thin scripts, no torch while rules are parsed."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from ablation.vocabulary.catalogue import FIRST
from tests.dry_run import dry_run

ROOT = Path(__file__).resolve().parents[3]


def test_versions_of_direct_needs_are_the_installed_ones():
    from importlib.metadata import version

    for line in (ROOT / "requirements.in").read_text().splitlines():
        if match := re.match(r"([\w.-]+)==([\w.]+)", line):
            assert version(match[1]) == match[2], f"{match[1]}: run `make demo` or `make test`"


@pytest.mark.parametrize("file", sorted(ROOT.glob("workflow/scripts/*.py")), ids=lambda p: p.name)
def test_scripts_are_thin(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 40
    names = [n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
    assert names == ["main"]


def test_the_library_never_imports_snakemake():
    for file in (ROOT / "src/ablation").rglob("*.py"):
        # `ablation reap` and the hooks use modules of our plugins that do not need Snakemake
        vast = r"_executor_plugin_vast\.(command|hooks|market|market\.protocol|terminal) "
        foreign = rf"^\s*(import|from) snakemake(?!{vast}|_report_plugin_runcrate\.hooks )"
        assert not re.search(foreign, file.read_text(), re.M), file


@pytest.mark.parametrize("folder", ["src", "workflow", "tools", "packages"])
def test_code_of_a_model_is_never_trusted(folder):
    """transformers asks on the terminal whether to run it, unless trust_remote_code is False."""
    for file in (ROOT / folder).rglob("*.py"):
        for call in (n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)):
            name = ast.unparse(call.func)
            trust = [ast.unparse(k.value) for k in call.keywords if k.arg == "trust_remote_code"]
            automatic = re.match(r"(Auto|auto_)\w+\.from_", name)
            assert trust == (["False"] if automatic else []), f"{file}:{call.lineno}: {name}"


PACKAGES = [folder.relative_to(ROOT).as_posix() for folder in sorted(ROOT.glob("packages/*/src"))]


@pytest.mark.parametrize("folder", ["src/ablation", "workflow", "tools", *PACKAGES])
def test_every_text_names_its_encoding(folder):
    """Otherwise Python reads and writes it in the encoding of the locale."""
    for file in (ROOT / folder).rglob("*.py"):
        for call in (n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)):
            name, values = ast.unparse(call.func), [ast.unparse(a) for a in call.args]
            options = {k.arg: ast.unparse(k.value) for k in call.keywords}
            text = (
                (name.endswith(".read_text") and not values)
                or (name.endswith(".write_text") and len(values) < 2)
                or (name == "open" and "b" not in options.get("mode", "".join(values[1:2])))
                or (name.startswith("subprocess.") and "text" in options)
            )
            assert not text or "encoding" in options, f"{file}:{call.lineno}: {name}"


def test_reading_the_rules_imports_no_torch():
    code = (
        "import sys; from snakemake.cli import main\n"
        "try: main(['--list'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'lm_eval'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "LOADED []" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    "modules, without",
    [
        (
            "ablation.report.charts, ablation.analysis.curves, ablation.report.figures",
            {"transformers"},
        ),
        ("ablation.analysis.published, ablation.analysis.recovery", {"transformers"}),
        ("snakemake_executor_plugin_vast.command", {"snakemake"}),  # `ablation reap`
        ("ablation.workflow.hooks.vast", set()),
    ],
)
def test_tables_figures_and_the_end_of_machines_need_no_torch(modules, without):
    code = f"import sys, {modules}; print(sorted({without | {'torch'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_files_stay_short():
    for file in [*(ROOT / "src").rglob("*.py"), *(ROOT / "rules").glob("*.smk")]:
        assert len(file.read_text().splitlines()) <= 400, file


def test_rooms_stay_few_and_small():
    package = ROOT / "src/ablation"
    rooms = [folder for folder in package.iterdir() if (folder / "__init__.py").is_file()]
    beside = {file.name for file in package.glob("*.*")}
    assert len(rooms) <= 20 and beside == {"__init__.py", "__main__.py", "py.typed"}
    for room in [folder.parent for folder in package.rglob("__init__.py")]:
        if room.name != "cli" and room != package:  # one file a command
            assert len(list(room.glob("*.py"))) <= 15, room


def test_every_rule_starts_with_a_docstring():
    for file in (ROOT / "rules").glob("*.smk"):
        for rule in re.findall(r"^\s*rule \w+:\n(.*?)\n", file.read_text(), re.M):
            assert rule.strip().startswith('"""'), (file, rule)


def snakemake(*arguments):
    done = dry_run(arguments, ROOT, os.environ | {"PYTHONPATH": str(ROOT / "src")})
    assert done.returncode == 0, done.stdout
    return done.stdout


def edges(graph):
    """{(rule, rule that depends on it)} of a mermaid graph, without its numbers and colours."""
    rule = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    return {(rule[a], rule[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", graph)}


def test_the_drawn_rule_graph_is_current():
    drawn = edges((ROOT / "docs/rulegraph.md").read_text())
    assert ("stage5_longrun", "stage5_posteval") in drawn
    current = edges(snakemake("--rulegraph", "mermaid-js", "results/recovery.csv"))
    assert drawn == current, "run `make dag`"


@pytest.mark.parametrize("target", [("results/recovery.csv",), ()], ids=["named", "default"])
def test_the_workflow_folder_has_the_same_workflow(target):
    def jobs(*options):
        options = (*options, "--forceall", "--quiet", "reason", "-n", *target)
        counted = snakemake(*options).split("Job stats:")[1]
        found = set(re.findall(r"^(\w+) +(\d+)$", counted, re.M))
        return {(rule, n) for rule, n in found if rule not in ("total", "all", "everything")}

    ours = jobs()
    assert len(ours) > 9 and jobs("-s", "workflow/Snakefile") == ours


def test_the_files_for_the_public_workflow_catalog_exist():
    shown = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())
    assert set(shown["usage"]) <= {"mandatory-flags", "software-stack-deployment", "report"}
    assert shown["usage"]["report"] and shown["usage"]["software-stack-deployment"]["conda"]
    for name in ("workflow/Snakefile", "config/README.md", "README.md", "CHANGELOG.md"):
        assert (ROOT / name).read_text().strip(), name


def test_licence_and_version_agree_with_the_citation():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "title", "message", "authors"} <= set(cited)  # required by the format
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert cited["license"] == "Apache-2.0"
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence and "Version 2.0" in licence


def test_a_proof_is_claimed_only_where_a_signature_is():
    """Hashes find what was edited by accident, but whoever edits can compute them again."""
    claim = re.compile(r"\b(provabl[ey]|prove[ns]?|proof|tamper-?proof|unforgeable)\b", re.I)
    files = [ROOT / name for name in ("README.md", "CITATION.cff", "pyproject.toml")]
    files += [*ROOT.glob("docs/*.md"), *ROOT.glob("src/**/*.py"), *ROOT.glob("config/*.md")]
    found = [
        f"{f}: {line}" for f in files for line in f.read_text().splitlines() if claim.search(line)
    ]
    assert [line for line in found if "signature" not in line] == []


def test_every_caption_of_the_report_is_used_and_every_page_has_one():
    rules = "".join(file.read_text() for file in (ROOT / "rules").glob("*.smk"))
    for kind in ("table", "figure"):
        there = {p.stem for p in (ROOT / "workflow/report").glob(f"{kind}_*.rst")}
        named = set(re.findall(rf"{kind}_(\w+)\.rst", rules))
        made = {"figure": set(FIRST.figures)}.get(kind, set())
        pages = {"costs", "environment"} if kind == "table" else set()
        assert there == {f"{kind}_{name}" for name in named | made | pages}


def test_figures_are_a_target():
    wanted = snakemake("--forceall", "--quiet", "reason", "-n", "figures")
    for figure in ("accuracy", "recovery", "curves", "flips", "masks"):
        assert re.search(rf"^figure_{figure} +1$", wanted, re.M)


def test_the_glossary_defines_each_term_once_in_one_line():
    lines = (ROOT / "docs/glossary.md").read_text().splitlines()
    entries = [
        re.fullmatch(r"- \*\*(.+?)\*\*: [A-Z`(].*\.", line) for line in lines if line[:1] == "-"
    ]
    assert all(entries)
    terms = [entry[1].replace("`", "") for entry in entries]
    assert len(set(terms)) == len(terms)
    recipes = set(yaml.safe_load((ROOT / "config/default.yaml").read_text())["recipes"])
    masks = {"causal", "prefill_bidir", "full_bidir"}
    assert recipes | masks | {"not_estimable", "train_leaks", "eval_leaks"} <= set(terms)
