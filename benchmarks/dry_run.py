"""Measures seconds and memory of a dry run, by the number of recipes of a sweep.

    python benchmarks/dry_run.py [--recipes 10 100 1000] [--seeds 1]

A sweep is the micro study with variants of 3B beside its own recipes. Prints one JSON object
(`make bench` keeps it in benchmarks/results/dry_run.json): jobs, wall and processor seconds, and
the peak resident memory of `snakemake -n results/recovery.csv`. `no_op` is the same where the
study is finished, null where it is not.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from ablation.provenance.run_records import processor_name


def dry_run(*options: str) -> dict:
    """One dry run of the recovery table: its jobs, and what it took to find them.

    Other work on the machine makes `seconds` longer, `cpu_seconds` hardly.
    """
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", *options]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            [*command, "--", "results/recovery.csv"], stdout=said, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        said.seek(0)
        text = said.read()
    if child.returncode:
        raise SystemExit(text)
    total = re.search(r"^total +(\d+)$", text, re.M)
    return {
        "jobs": int(total[1]) if total else 0,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_mb": round(used.ru_maxrss / 1024, 1),
    }


def sweep(recipes: int, seeds: int, folder: Path) -> Path:
    """A study with `recipes` variants of 3B in addition to the shipped recipes."""
    shipped = yaml.safe_load(Path("config/default.yaml").read_text())["recipes"]
    variants = {f"3B-lr{n}": {"learning_rate": 1e-3 * (1 + n / recipes)} for n in range(recipes)}
    study = {"study": f"sweep{recipes}", "seeds": list(range(1, seeds + 1))}
    file = folder / f"sweep{recipes}.yaml"
    file.write_text(yaml.safe_dump(study | {"recipes": shipped | variants}, sort_keys=False))
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", type=int, nargs="+", default=[10, 100, 300, 1000])
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")])
    finished = dry_run()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for recipes in arguments.recipes:
            file = sweep(recipes, arguments.seeds, Path(folder))
            rows.append({"recipes": recipes, **dry_run("--configfile", str(file))})
    found = {
        "processor": processor_name(),
        "processors": os.cpu_count(),
        "python": sys.version.split()[0],
        "load": round(os.getloadavg()[0], 1),
        "seeds": arguments.seeds,
        "no_op": None if finished["jobs"] else finished,
        "sweeps": rows,
    }
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
