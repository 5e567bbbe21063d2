"""Made-up sample rows, costs and claims of the second study, whose tables are known beforehand."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ablation.bridge.analysis import claims
from ablation.bridge.analysis import samples as sampling
from ablation.bridge.analysis.freeze import freeze_table
from ablation.config.bridge_blocks import Claims
from ablation.vocabulary.bridge import CONTROLS

N = 60
ROUNDED = ("float16", "int8", "int4")


def made_rows(regime="compression", clusters=("",) * N, **accuracy):
    """Sample rows of `recipe=accuracy` at K = 2 and 8, four seeds, in one regime."""
    rng = np.random.default_rng(0)
    rows, summary = [], {}
    for recipe_name, level in accuracy.items():
        for k in (2, 8):
            for seed in (1, 2, 3, 4):
                named = {"regime": regime, "recipe": recipe_name, "k": k, "seed": seed}
                named["config"] = f"{recipe_name}{k}{seed}"
                summary[f"{regime}/{seed}/{recipe_name}-k{k}"] = named | {
                    "direction": "forward",
                    "mode": "soft_only",
                    "translator": "resampler",
                    "dev_peak": level,
                    "dev_final": level / 2,
                    "best_step": 2,
                    "steps": 4,
                    "stop_reason": "max_steps",
                    "parameters": 7,
                }
                for arm in ("bridged", "bridged_last", *CONTROLS, *ROUNDED):
                    chance = level * (0.3 if k == 2 else 1) * (0.05 if arm in CONTROLS else 1)
                    for item in range(N):
                        right = int(rng.random() < chance)
                        said = {"noise": 0, "item": item, "text": " #### 1", "answer": str(right)}
                        rows.append({**named, "arm": arm, **said, "correct": right, "f1": right})
    alone = [
        {"regime": regime, "direction": "forward", "arm": arm, "k": k, "item": item}
        | {"correct": int(rng.random() < level), "question_tokens": 40, "text": f"#### {item}"}
        | {"source_tokens": 41, "question_bytes": 90, "message_bytes": 5, "cluster": clusters[item]}
        for arm, level in zip(sampling.ALONE, (0.1, 0.9, 0.6, 0.9, 0.1, 0.8), strict=True)
        for k in ((2, 8) if arm in sampling.AT_EACH_K else (0,))
        for item in range(N)
    ]
    return pd.DataFrame(rows), pd.DataFrame(alone), pd.DataFrame.from_dict(summary, orient="index")


CLAIMS = Claims(
    all_fixes="all_fixes",
    no_fixes="no_fixes",
    soft_tokens=8,
    context_recipe="all_fixes",
    context_soft_tokens=8,
    p=0.01,
    same_within=0.05,
    share_of_target=0.9,
    final_accuracy=0.7,
)


def costs_of(latent=1.0, cascade=2.0, regime="compression"):
    """Costs of three arms on twenty questions; arms that ask the source hold 1 MiB more."""
    rows = [
        {"regime": regime, "sample_id": i, "arm": arm, "kv_cache_mb": kv, "latency_sec": s}
        | {"both_kv_mb": kv + (arm != "target_alone")}
        for i in range(20)
        for arm, kv, s in (
            ("latent", 1.0, latent + i / 1000),
            ("cascade", 4.0, cascade + i / 2000),
            ("target_alone", 3.0, 1.0),
        )
    ]
    return pd.DataFrame(rows)


def decisions(samples, measured, freeze=None):
    """{claim: verdict} of made-up rows; the table has the promised columns."""
    frozen = freeze_table(samples, freeze, CLAIMS, "micro", 0.95)
    table = claims.claims_table(samples, measured, CLAIMS, frozen, "micro", 0.95)
    assert tuple(table.columns) == claims.COLUMNS
    assert set(table.verdict) <= {"supported", "refuted", "open"} and table.rule.notna().all()
    return dict(zip(table.claim, table.verdict, strict=True))
