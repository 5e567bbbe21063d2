"""R, net R and their parts from the sample rows alone, by code that shares nothing with `ablation`.

    python -m tests.support.independent_recovery results/micro

Prints every number of recovery.csv that differs by more than 1e-9. Accuracy is the share of items
whose likeliest choice is the right one; a macro is the mean of its tasks; a recipe's value is the
mean of its seeds.
"""

import sys
from pathlib import Path

import pandas as pd

CONTROLS = {"3B": "3A", "3B-leaky": "3A"}  # trained on the same records for as many steps


def accuracies(file: Path) -> dict[str, float]:
    """{task: share of items whose most likely choice is the gold one}."""
    rows = pd.read_parquet(file)
    likeliest = rows.loc[rows.groupby(["task", "doc_id"]).loglikelihood.idxmax()]
    return likeliest.choice.eq(likeliest.gold).groupby(likeliest.task).mean().to_dict()


def recomputed(results: Path, table: pd.DataFrame) -> pd.DataFrame:
    """B, A, P, C, D and what follows from them for each row of `table`, from the sample rows."""
    scored = {}
    for file in results.glob("stage*/**/samples.parquet"):
        stage, *words = file.parent.relative_to(results).parts
        recipe, seed, mask = ["base", "", *(words or ["causal"])][-3:] if len(words) < 3 else words
        scored[recipe, seed.removeprefix("seed"), mask] = accuracies(file)
    seeds = sorted({seed for _, seed, _ in scored} - {""})

    def mean(recipe: str, seed: str, mask: str, tasks: list[str]) -> float:
        of = {"base": [""]}.get(recipe, seeds if seed == "all" else [seed])
        values = [scored[recipe, one, mask][task] for one in of for task in tasks]
        return sum(values) / len(values)

    rows = []
    for row in table.itertuples():
        tasks = [row.task]
        if row.task.startswith("macro"):
            exposure = row.task.removeprefix("macro").lstrip("_")
            same = (table.recipe == row.recipe) & ~table.task.str.startswith("macro")
            chosen = table[same & (table.exposure == exposure)] if exposure else table[same]
            tasks = sorted(set(chosen.task))
        found = {"b": mean("base", "", "causal", tasks)}
        found["p"] = mean(row.recipe, row.seed, row.mask, tasks)
        if row.mask != "causal":
            found["a"] = mean("base", "", row.mask, tasks)
        if row.mask != "causal" and row.recipe in CONTROLS:
            found["c"] = mean(CONTROLS[row.recipe], row.seed, "causal", tasks)
            found["d"] = mean(CONTROLS[row.recipe], row.seed, row.mask, tasks)
        rows.append(found)
    b, a, p, c, d = (pd.DataFrame(rows, index=table.index)[name] for name in "bapcd")
    found = {"baseline": b, "ablated": a, "after": p, "damage": a - b, "gain": p - a}
    found |= {"side_effect": (p - b)[a.isna()], "retention": p / b, "recovered": (p - a) / (b - a)}
    found |= {"control_causal": c, "control_ablated": d, "net_recovered": (p - d) / (c - d)}
    return pd.DataFrame(found)


def differences(results: Path) -> tuple[int, list[str]]:
    """How many numbers recovery.csv has, and each one that is not the recomputed one to 1e-9."""
    table = pd.read_csv(results / "recovery.csv", dtype={"seed": str})
    again = recomputed(results, table)
    compared = table[again.columns].notna()
    wrong = compared & ~((table[again.columns] - again).abs() <= 1e-9)
    keys = ["recipe", "seed", "mask", "task"]
    found = [
        f"{dict(table.loc[i, keys])} {column}: {table.loc[i, column]} is {again.loc[i, column]}"
        for i, column in wrong.stack()[lambda cell: cell].index
    ]
    return int(compared.sum().sum()), found


if __name__ == "__main__":
    count, found = differences(Path(sys.argv[1]))
    print(f"{count} numbers compared", *found, sep="\n")
    sys.exit(bool(found))
