"""Promises about a locale without UTF-8: hashes, comparisons and configurations stay the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PROGRAM = """
import json, locale, sys
from pathlib import Path
from ablation.config.load import load_study
from ablation.lineage.compare import compare
from ablation.provenance.code_hash import code_hash
old, new = map(Path, sys.argv[1:])
print(json.dumps({
    "encoding": locale.getpreferredencoding(),
    "code": {str(s): code_hash(s) for s in sorted(Path("workflow/scripts").glob("*.py"))},
    "study": load_study({}).model_dump_json(),
    "compared": [compare(p, new / p.name, 0).where for p in sorted(old.iterdir())],
}))
"""


def answers(folders, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, folders)],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_a_locale_without_utf8_changes_no_hash_and_no_comparison(tmp_path):
    folders = [tmp_path / "old", tmp_path / "new"]
    for folder, text in zip(folders, ("Éve", "Adám"), strict=True):
        folder.mkdir()
        (folder / "a.json").write_text(json.dumps({"x": text}, ensure_ascii=False), "utf-8")
        (folder / "a.jsonl").write_text(json.dumps({"x": text}, ensure_ascii=False), "utf-8")
        (folder / "a.csv").write_text(f"x\n{text}\n", "utf-8")
    usual, ascii_only = answers(folders, PYTHONUTF8="1"), answers(folders, **ASCII)
    assert (usual.pop("encoding"), ascii_only.pop("encoding")) == ("utf-8", "ANSI_X3.4-1968")
    assert all("Éve" in where for where in usual["compared"])
    assert ascii_only == usual
