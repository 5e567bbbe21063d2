"""`ablation export`: a study's results in the files of another tool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ablation.cli.options import PATH, Command, Several, report_errors
from ablation.cli.studies import CONFIG, find_study_folder, study_folder_argument

if TYPE_CHECKING:
    import pandas as pd

    from ablation.data.lm_eval_samples import ItemText

    Texts = Mapping[str, Mapping[int, ItemText]]

ITEMS = ("/base/items/", "/base/generation_items/")  # in the paths of manifests of items


@click.command(
    cls=Command,
    short_help="Write a study's scores and items in the file format of another tool.",
    examples=(
        "ablation export lm-eval --study micro --out exported",
        "ablation export lm-eval results/smollm2 --recipe base 3B --mask causal --out exported",
    ),
)
@click.argument(
    "form",
    type=click.Choice(("lm-eval",)),
    metavar="lm-eval",
    help="The tool whose file format is written.",
)
@click.option("--out", type=PATH, required=True, metavar="FOLDER", help="The folder to write.")
@click.option("--recipe", cls=Several, help="The recipes, or `base` (default: all).")
@click.option("--mask", cls=Several, help="The masks and interventions (default: all).")
@click.option(
    "--no-texts", is_flag=True, help="Leave the texts of items out, and those that models wrote."
)
@study_folder_argument
def export(
    form: str,
    folder: Path | None,
    out: Path,
    recipe: tuple[str, ...],
    mask: tuple[str, ...],
    no_texts: bool,
    configfile: Path | None,
    study: str | None,
) -> int:
    """Write results_DATE.json and samples_TASK_DATE.jsonl as lm-eval 0.4.13 does, a folder for each
    condition (recipe, seed, mask, protocol), from the stored sample rows; generated texts have
    files of their own in it. The names of scores under a leaking mask have LEAKS in them. Samples
    have the texts of their items if the study's folder has the items; weights are never exported.
    `ablation compare` compares two such folders.
    """
    from ablation.config.merging import ConfigError
    from ablation.console.printable import printable
    from ablation.console.progress import Progress
    from ablation.data.generation.rows import ROWS
    from ablation.provenance.manifests import StaleInput
    from ablation.remote.lm_eval_files import scored_conditions, write_condition
    from ablation.remote.lm_eval_generations import write_generations

    with report_errors(ConfigError, StaleInput, ValueError, AssertionError, OSError):
        home = find_study_folder(folder, configfile, study)
        name = home.resolve().name
        paths = scored_conditions(home, recipe, mask)
        texts = _Texts(home, no_texts)
        folders: list[Path] = []
        without: set[str] = set()
        progress = Progress(f"export {name}", len(paths))
        for done, path in enumerate(paths, 1):
            files = (name, path, out, texts.of, CONFIG)
            generated = path.with_name(ROWS).is_file()
            written, lacking = (
                write_generations(*files, not no_texts) if generated else write_condition(*files)
            )
            folders += [folder for folder in written if folder not in folders]
            without |= lacking
            progress.update(done)
    leaking = sum("-LEAKS-" in written.name for written in folders)
    print(printable(f"{len(folders)} models in {out}, a folder each; {leaking} named LEAKS"))
    if without:
        print(printable(f"without texts ({texts.reason}): {', '.join(sorted(without))}"))
    return 0


class _Texts:
    """The texts of items, built once for all conditions with the same settings and data."""

    def __init__(self, home: Path, left_out: bool) -> None:
        from ablation.lineage.verify import folder_above_results

        self._root = folder_above_results(home)
        self._left_out = left_out
        self._built: dict[str, tuple[Any, pd.DataFrame] | None] = {}
        self.reason = "--no-texts"

    def of(self, manifest: Mapping[str, Any], items: pd.DataFrame) -> Texts:
        """{task: texts} of those tasks whose items here are the ones that were scored."""
        from ablation.provenance.files import canonical_json

        if self._left_out:
            return {}
        evaluation = manifest["fingerprint"]["config"].get("evaluation", {})
        key = canonical_json([evaluation, self._data(manifest)])
        if key not in self._built:
            self._built[key] = self._build(manifest, evaluation)
        built = self._built[key]
        if built is None:
            return {}
        texts, hashes = built
        found = {}
        for name, rows in items.groupby("task"):
            task = str(name)
            scored = rows.set_index(["task", "doc_id"])[list(hashes)]
            if task in texts and scored.astype(str).equals(hashes.loc[[task]].astype(str)):
                found[task] = texts[task]
            else:
                self.reason = "the items here are not those that were scored"
        return found

    def _data(self, manifest: Mapping[str, Any]) -> list[str]:
        return [path for path in manifest["inputs"] if any(place in path for place in ITEMS)]

    def _build(
        self, manifest: Mapping[str, Any], evaluation: Mapping[str, Any]
    ) -> tuple[Any, pd.DataFrame] | None:
        import logging
        import os

        from ablation.data.hub import HubError
        from ablation.provenance.manifests import StaleInput, load_manifest, verify_outputs

        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        data = self._data(manifest)
        checkpoints = [path for path in manifest["inputs"] if path not in data]
        try:
            for path in data:
                verify_outputs(self._root / path, load_manifest(self._root / path))
            from ablation.scoring.item_texts import generation_texts, item_texts

            checkpoint = self._root / checkpoints[0]
            model = (checkpoint, load_manifest(checkpoint), CONFIG / "tasks")
            choices, texts = (
                next(((self._root / path).parent for path in data if place in path), None)
                for place in ITEMS
            )
            if manifest["fingerprint"]["stage"].endswith("_generation"):
                return generation_texts(evaluation, texts, choices, *model)
            return item_texts(evaluation, choices, *model)
        except StaleInput:  # an archive has none
            self.reason = "the items are not here as they were scored"
        except (HubError, OSError, ValueError) as error:
            self.reason = " ".join(str(error).split())
        return None
