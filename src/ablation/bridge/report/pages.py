"""The pages of the second study in the report: which columns of its tables they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from ablation.report.html_tables import Marked, Section, html_page

Cell = Callable[[pd.Series], str]
BOTH_ALONE = ("source_alone", "target_alone")
VERDICTS = {"supported": "good", "refuted": "bad"}


def number(name: str, form: str = ".3f") -> Cell:
    """A cell with the number in column `name`, empty if there is none."""
    return lambda row: "" if pd.isna(row[name]) else format(row[name], form)


def text(name: str) -> Cell:
    """A cell with the text in column `name`; whole numbers have no decimals."""
    return lambda row: "" if pd.isna(row[name]) else str(row[name]).removesuffix(".0")


def interval(low: str = "low", high: str = "high") -> Cell:
    """A cell with the interval whose ends are in two columns."""
    return lambda row: "" if pd.isna(row[low]) else f"[{row[low]:.3f}, {row[high]:.3f}]"


def p_value(name: str = "p") -> Cell:
    """A cell with the p value in column `name`."""

    def show(row: pd.Series) -> str:
        return "" if pd.isna(row[name]) else "< .001" if row[name] < 0.001 else f"{row[name]:.3f}"

    return show


def coloured(name: str, kinds: Mapping[str, str]) -> Cell:
    """A cell with the text in column `name`, in the colour that `kinds` has for the text."""

    def show(row: pd.Series) -> str:
        found = str(row[name])
        return Marked(found, kinds[found]) if found in kinds else found

    return show


def section(title: str, frame: pd.DataFrame, cells: Mapping[str, Cell]) -> Section:
    """A table of a page: `cells` has a cell for each column heading."""
    rows = [{head: cell(row) for head, cell in cells.items()} for _, row in frame.iterrows()]
    return Section(title, rows)


def _texts(*names: str) -> dict[str, Cell]:
    return {name.replace("_", " "): text(name) for name in names}


def claims(claims: pd.DataFrame, freeze: pd.DataFrame) -> str:
    """The claims about the bridge, each with its rule and whether it is supported."""
    cells = _texts("regime", "claim", "rule", "rows")
    cells |= {"value": number("value", "+.3f"), "interval": interval(), "p": p_value()}
    cells |= {"clusters": text("clusters"), "design effect": number("design_effect", ".2f")}
    cells |= {"verdict": coloured("verdict", VERDICTS)}
    frozen = _texts("regime", "recipe", "k", "seed", "n", "clusters", "bar")
    frozen |= {name.replace("_", " "): number(name) for name in ("accuracy", *BOTH_ALONE)}
    frozen |= {"p, source": p_value("p_source_alone"), "p, target": p_value("p_target_alone")}
    frozen |= {"design effect": number("design_effect", ".2f")}
    frozen |= {"passes": coloured("passes", {"true": "good", "false": "bad"})}
    notes = [
        "Rules stand in the study's claims: block; open: these rows do not decide. Where questions "
        "share clusters, intervals and p are robust to them; the design effect is the variance "
        "over that of independent questions. Questions, seeds and rule of the frozen cells were "
        "fixed before anybody saw their results; every cell must pass."
    ]
    parts = [section("Claims", claims, cells)]
    if len(freeze):
        parts.append(section("Frozen cells", freeze, frozen))
    return html_page("What is claimed of the bridge", notes, parts)


def cells(runs: pd.DataFrame) -> str:
    """Every trained translator, from the table `runs`."""
    shown = _texts("regime", "recipe", "k", "seed", "mode", "n")
    shown |= {"accuracy": number("accuracy"), "interval": interval("accuracy_low", "accuracy_high")}
    shown |= {"last step": number("last_accuracy"), "dev peak": number("dev_peak")}
    shown |= _texts("best_step", "steps", "stop_reason")
    shown |= {"source alone": number("source_alone"), "target alone": number("target_alone")}
    shown |= {"p, source": p_value("p_source_alone"), "p, target": p_value("p_target_alone")}
    shown |= {"clusters": text("clusters"), "design effect": number("design_effect", ".2f")}
    shown |= _texts("unique_answers", "invalid_answers")
    shown |= {"collapsed": coloured("collapsed", {"true": "bad", "True": "bad"})}
    shown |= _texts("config")
    notes = [
        "Each row is one trained translator. The step was chosen on dev; the test questions were "
        "answered once, with those weights and with the last. Intervals are Wilson's and p exact "
        "McNemar's; where questions share clusters, both are robust to them. "
        "Under soft_plus_text the target reads the question itself: no test of a bridge."
    ]
    return html_page("Every trained translator", notes, [section("Cells", runs, shown)])


def fixes(effects: pd.DataFrame) -> str:
    """The change of accuracy through each removed fix, from the table `effects`."""
    shown = _texts("regime", "recipe", "against", "k", "weights")
    shown |= {"accuracy": number("accuracy"), "against it": number("against_accuracy")}
    shown |= {"change": number("difference", "+.3f"), "interval": interval(), "p": p_value()}
    notes = ["Intervals are over questions and seeds; a change that is nil stands here too."]
    return html_page("What each removed fix changed", notes, [section("Recipes", effects, shown)])


def controls(controls: pd.DataFrame) -> str:
    """The controls, which remove the source from the soft tokens."""
    shown = _texts("regime", "k", "control")
    shown |= {"accuracy": number("accuracy"), "bridged": number("bridged")}
    shown |= {"bridged - control": number("bridged_difference", "+.3f")}
    shown |= {"interval ": interval("bridged_low", "bridged_high")}
    shown |= {"control - source-free": number("source_free_difference", "+.3f")}
    shown |= {"interval": interval("source_free_low", "source_free_high")}
    shown |= _texts("same_as_target_alone")
    notes = [
        "What is left when soft tokens say nothing of the question; and identity, where they are "
        "the target's own embeddings of it."
    ]
    return html_page("Controls", notes, [section("Controls", controls, shown)])


def compression(compression: pd.DataFrame, messages: pd.DataFrame) -> str:
    """Accuracy by the number of soft tokens, and what may be sent in their place."""
    swept = _texts("regime", "recipe", "k", "source_reads", "n", "seeds")
    swept |= {"text tokens": number("text_tokens", ".1f"), "text / K": number("compression", ".1f")}
    swept |= {"accuracy": number("accuracy"), "interval": interval("accuracy_low", "accuracy_high")}
    for name in ("source_free", "token_budget", "text_answer", "target_alone"):
        swept[name.replace("_", " ")] = number(name)
    swept |= {"target's cache saved, MiB": number("kv_saved_mib", ".4f")}
    swept |= {"source's cache, MiB": number("source_kv_mib", ".4f")}
    swept |= {"both saved, MiB": number("both_kv_saved_mib", ".4f")}
    sent = _texts("regime", "k", "message", "bits")
    sent |= {"bytes": number("bytes_mean", ".1f"), "at most": number("bytes_max", ".0f")}
    sent |= {"accuracy": number("accuracy"), "change": number("difference", "+.3f")}
    sent |= {"interval": interval(), "p": p_value()}
    parts = [section("Soft tokens", compression, swept)]
    parts.append(section("Messages of the source", messages, sent))
    notes = [
        "Where the source has read text and question, it may hand on its answer, so that only the "
        "regimes in which it reads the text alone test compression. The text answer is that of the "
        "source, which has read the question in every regime, in no more bytes than int4 soft "
        "tokens; text is all that soft tokens stand for. Quantized soft tokens have a scale each. "
        "A negative saving is a cost."
    ]
    return html_page("Accuracy, compression and messages", notes, parts)


def arms(inference: pd.DataFrame) -> str:
    """What each arm costs, from the table `inference`."""
    shown = _texts("regime", "arm", "num_samples")
    shown |= {"exact match": number("em"), "F1": number("f1")}
    shown |= {"read": number("input_len", ".1f"), "said": number("output_len", ".1f")}
    shown |= {"KV cache, MiB": number("kv_cache_mb_mean", ".4f")}
    shown |= {"as the formula": text("kv_as_formula")}
    shown |= {"source's cache, MiB": number("source_kv_mb_mean", ".4f")}
    shown |= {"both, MiB": number("both_kv_mb_mean", ".4f")}
    shown |= {"both saved": number("both_kv_saved_share", "+.0%")}
    shown |= {"bytes sent": number("message_bytes_mean", ".1f")}
    shown |= {"latency, ms": lambda row: f"{1000 * row.latency_sec_median:.2f}"}
    shown |= {"peak memory, MiB": number("peak_mem_mb_max", ".0f")}
    notes = [
        "One question at a time, from text to text; latency is a median. The cache is that of the "
        "model that answers; what the source held to read or to draft stands beside it, and both "
        "count together against target-alone. Soft tokens are sent as float32."
    ]
    return html_page("What the arms cost", notes, [section("Arms", inference, shown)])


def published(audit: pd.DataFrame, published: pd.DataFrame, repeats: pd.DataFrame) -> str:
    """The leak of the published evaluator, the published runs and their repeats."""
    leak = _texts("regime", "recipe", "seed", "evaluator", "soft_tokens")
    leak |= {"gold shown": coloured("gold_shown", {"true": "bad", "True": "bad"})}
    leak |= {"n": text("n"), "accuracy": number("accuracy"), "interval": interval()}
    leak |= {"note": text("note")}
    runs = _texts("run", "soft_tokens", "mode", "data", "n")
    for name in ("source", "target", "peak", "final", "degradation"):
        runs[name] = number(name)
    runs |= {"tests a bridge": text("tests_a_bridge"), "why not": text("why_not")}
    same = _texts("run", "against", "step", "n")
    same |= {"accuracy": number("accuracy"), "against it": number("against_accuracy")}
    same |= {"difference": number("difference", "+.3f"), "interval": interval()}
    notes = ["Accuracies of the published runs are as their logs have them."]
    parts = [
        section("Recipe 1b by the published evaluator and by ours", audit, leak),
        section("The published runs", published, runs),
        section("Repeats of one configuration", repeats, same),
    ]
    return html_page("The leak, and the published runs", notes, parts)
