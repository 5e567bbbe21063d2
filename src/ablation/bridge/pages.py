"""The second study's pages of the report: which columns of its tables a reader sees. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from ablation.sheets import Marked, Section, html_page

Cell = Callable[[pd.Series], str]
VERDICTS = {"supported": "good", "refuted": "bad"}


def digits(name: str, form: str = ".3f") -> Cell:
    return lambda row: "" if pd.isna(row[name]) else format(row[name], form)


def text(name: str) -> Cell:
    return lambda row: "" if pd.isna(row[name]) else str(row[name]).removesuffix(".0")


def interval(low: str = "low", high: str = "high") -> Cell:
    return lambda row: "" if pd.isna(row[low]) else f"[{row[low]:.3f}, {row[high]:.3f}]"


def p_value(name: str = "p") -> Cell:
    def told(row: pd.Series) -> str:
        return "" if pd.isna(row[name]) else "< .001" if row[name] < 0.001 else f"{row[name]:.3f}"

    return told


def marked(name: str, kinds: Mapping[str, str]) -> Cell:
    """Its text, coloured where `kinds` knows it."""

    def told(row: pd.Series) -> str:
        found = str(row[name])
        return Marked(found, kinds[found]) if found in kinds else found

    return told


def told(title: str, frame: pd.DataFrame, cells: Mapping[str, Cell]) -> Section:
    rows = [{head: cell(row) for head, cell in cells.items()} for _, row in frame.iterrows()]
    return Section(title, rows)


def _texts(*names: str) -> dict[str, Cell]:
    return {name.replace("_", " "): text(name) for name in names}


def claims(claims: pd.DataFrame) -> str:
    cells = _texts("regime", "claim", "rule", "rows")
    cells |= {"value": digits("value", "+.3f"), "interval": interval(), "p": p_value()}
    cells |= {"verdict": marked("verdict", VERDICTS)}
    notes = ["Rules stand in the study's claims: block; open: these rows do not decide."]
    return html_page("What is claimed of the bridge", notes, [told("Claims", claims, cells)])


def cells(runs: pd.DataFrame) -> str:
    shown = _texts("regime", "recipe", "k", "seed", "mode", "n")
    shown |= {"accuracy": digits("accuracy"), "interval": interval("accuracy_low", "accuracy_high")}
    shown |= {"last step": digits("last_accuracy"), "dev peak": digits("dev_peak")}
    shown |= _texts("best_step", "steps", "stop_reason")
    shown |= {"source alone": digits("source_alone"), "target alone": digits("target_alone")}
    shown |= {"p, source": p_value("p_source_alone"), "p, target": p_value("p_target_alone")}
    shown |= _texts("unique_answers", "invalid_answers", "config")
    notes = [
        "A row a trained translator. The step was chosen on dev; test was asked once, with those "
        "weights and with the last. Intervals are Wilson's, p exact McNemar's. Under "
        "soft_plus_text the target reads the question itself: no test of a bridge."
    ]
    return html_page("Every trained translator", notes, [told("Cells", runs, shown)])


def fixes(effects: pd.DataFrame) -> str:
    shown = _texts("regime", "recipe", "against", "k", "weights")
    shown |= {"accuracy": digits("accuracy"), "against it": digits("against_accuracy")}
    shown |= {"change": digits("difference", "+.3f"), "interval": interval(), "p": p_value()}
    notes = ["Intervals are over questions and seeds; a change that is nil stands here too."]
    return html_page("What each removed fix changed", notes, [told("Recipes", effects, shown)])


def controls(controls: pd.DataFrame) -> str:
    shown = _texts("regime", "k", "control")
    shown |= {"accuracy": digits("accuracy"), "bridged": digits("bridged")}
    shown |= {"bridged - control": digits("bridged_difference", "+.3f")}
    shown |= {"interval ": interval("bridged_low", "bridged_high")}
    shown |= {"control - source-free": digits("source_free_difference", "+.3f")}
    shown |= {"interval": interval("source_free_low", "source_free_high")}
    shown |= _texts("same_as_target_alone")
    notes = [
        "What is left when soft tokens say nothing of the question; and identity, where they are "
        "the target's own embeddings of it."
    ]
    return html_page("Controls", notes, [told("Controls", controls, shown)])


def compression(compression: pd.DataFrame, quantization: pd.DataFrame) -> str:
    swept = _texts("regime", "k", "n", "seeds")
    swept |= {"text tokens": digits("text_tokens", ".1f"), "text / K": digits("compression", ".1f")}
    swept |= {"accuracy": digits("accuracy"), "interval": interval("accuracy_low", "accuracy_high")}
    for name in ("source_free", "token_budget", "target_alone"):
        swept[name.replace("_", " ")] = digits(name)
    swept |= {"cache saved, MiB": digits("kv_saved_mib", ".4f")}
    rounded = _texts("regime", "k", "soft_tokens", "bits", "bytes")
    rounded |= {"accuracy": digits("accuracy"), "change": digits("difference", "+.3f")}
    rounded |= {"interval": interval(), "p": p_value()}
    parts = [told("Soft tokens", compression, swept)]
    parts.append(told("Rounded soft tokens, one scale a token", quantization, rounded))
    return html_page("Accuracy, compression and quantization", [], parts)


def arms(inference: pd.DataFrame) -> str:
    shown = _texts("regime", "arm", "num_samples")
    shown |= {"exact match": digits("em"), "F1": digits("f1")}
    shown |= {"read": digits("input_len", ".1f"), "said": digits("output_len", ".1f")}
    shown |= {"KV cache, MiB": digits("kv_cache_mb_mean", ".4f")}
    shown |= {"as the formula": text("kv_as_formula")}
    shown |= {"source's cache, MiB": digits("source_kv_mb_mean", ".4f")}
    shown |= {"latency, ms": lambda row: f"{1000 * row.latency_sec_median:.2f}"}
    shown |= {"peak memory, MiB": digits("peak_mem_mb_max", ".0f")}
    notes = [
        "One question at a time, from text to text; latency is a median. The cache is that of the "
        "model that answers; what the source held to read or to draft stands beside it."
    ]
    return html_page("What the arms cost", notes, [told("Arms", inference, shown)])


def published(audit: pd.DataFrame, published: pd.DataFrame, repeats: pd.DataFrame) -> str:
    leak = _texts("regime", "recipe", "seed", "evaluator", "soft_tokens")
    leak |= {"gold shown": marked("gold_shown", {"true": "bad", "True": "bad"})}
    leak |= {"n": text("n"), "accuracy": digits("accuracy"), "interval": interval()}
    runs = _texts("run", "soft_tokens", "mode", "data", "n")
    for name in ("source", "target", "peak", "final", "degradation"):
        runs[name] = digits(name)
    runs |= {"tests a bridge": text("tests_a_bridge"), "why not": text("why_not")}
    same = _texts("run", "against", "step", "n")
    same |= {"accuracy": digits("accuracy"), "against it": digits("against_accuracy")}
    same |= {"difference": digits("difference", "+.3f"), "interval": interval()}
    notes = ["Accuracies of the published runs are as their logs have them."]
    parts = [
        told("Recipe 1b by the published evaluator and by ours", audit, leak),
        told("The published runs", published, runs),
        told("Repeats of one configuration", repeats, same),
    ]
    return html_page("The leak, and the published runs", notes, parts)
