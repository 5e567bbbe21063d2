"""The graph of a Provenance Run Crate (Workflow Run RO-Crate 0.5): root, workflow, run.

Nothing is read or written here; equal runs and an equal `Crate` give equal JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import terms
from .actions import Actions, times, total
from .entities import Entities
from .graph import DESCRIPTOR, Graph, local, of_file, ref, refs
from .runs import Crate, Run


def build(runs: Sequence[Run], crate: Crate) -> dict[str, Any]:
    """The content of ro-crate-metadata.json."""
    graph = Graph()
    standards = refs([terms.CRATE, terms.WORKFLOW_CRATE])
    graph.add(DESCRIPTOR, "CreativeWork", about=ref("./"), conformsTo=standards)
    graph.add("./", "Dataset")
    _Writer(graph, crate).write(list(runs))
    return graph.document()


class _Writer:
    def __init__(self, graph: Graph, crate: Crate) -> None:
        self.graph, self.crate = graph, crate
        self.entities = Entities(graph, crate)
        self.main = of_file(crate.workflow[crate.main].path)
        changed = ", with uncommitted changes" if crate.dirty else ""
        code = {
            "version": crate.commit and crate.commit + changed,
            "url": crate.citation.get("repository-code"),
        }
        self.code = {key: str(value) for key, value in code.items() if value}
        self.actions = Actions(self.entities, self.code)

    def write(self, runs: list[Run]) -> None:
        self._root()
        for original, file in self.crate.workflow.items():
            self.entities.file(file, name=original)
        self._workflow()
        result = self._run(runs)
        controls = [self.actions.job(run) for run in runs]
        agent = self.actions.agent
        self.graph.add(
            "#engine-run",
            "OrganizeAction",
            name=f"Snakemake {self.crate.snakemake} over {self.crate.name}",
            instrument=ref(self.entities.package("snakemake", self.crate.snakemake)),
            agent=ref(agent) if agent else None,
            object=refs(controls),
            result=ref(result),
            actionStatus=terms.DONE,
            **times(runs),
        )
        root = self.graph.entities["./"]
        root["hasPart"] = refs(self.graph.data())

    def _root(self) -> None:
        cff, crate = self.crate.citation, self.crate
        for profile, name in terms.PROFILES.items():
            self.graph.add(profile, "CreativeWork", name=name, version=profile.rpartition("/")[2])
        people = [self.entities.author(author) for author in cff.get("authors", ())]
        groups = [n for n in people if self.graph.entities[n]["@type"] == "Organization"]
        title = f": {cff['title']}" if "title" in cff else ""
        root = {
            "name": f"Results of the {crate.name}",
            "description": f"The results of the {crate.name}, with every job that made them, its "
            f"inputs and its software{title}.",
            "datePublished": crate.published,
            "license": self._licence(),
            "conformsTo": refs(terms.PROFILES),
            "mainEntity": ref(self.main),
            "author": refs(people),
            "publisher": refs(groups),
            "mentions": [],
        }
        self.graph.entities["./"] |= {key: value for key, value in root.items() if value}

    def _licence(self) -> object:
        """What CITATION.cff says, or the file LICENSE, or that there is none."""
        if licence := self.crate.citation.get("license"):
            spdx = f"https://spdx.org/licenses/{licence}"
            return ref(self.graph.add(spdx, "CreativeWork", name=licence, url=spdx))
        if "LICENSE" in self.crate.workflow:
            return ref(of_file(self.crate.workflow["LICENSE"].path))
        return "No licence is stated."

    def _workflow(self) -> None:
        """The Snakefile as main entity, the engine's language, configuration keys as parameters."""
        crate, main = self.crate, self.graph.entities[self.main]
        self.graph.add(
            "#snakemake", "ComputerLanguage", name="Snakemake", url=ref(terms.SNAKEMAKE),
            identifier=ref(terms.LANGUAGE),
        )  # fmt: skip
        main["@type"] = ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]
        main |= {
            "name": crate.citation.get("title", crate.name),
            "programmingLanguage": ref("#snakemake"),
            "conformsTo": ref(terms.BIOSCHEMAS),
            "license": self.graph.entities["./"]["license"],
            "input": refs(self.entities.parameter(*item) for item in crate.parameters.items()),
            "output": [],
            "step": [],
            "hasPart": [],
            **self.code,
        }
        for name in ("environment.yml", "environment.yaml"):
            if name in crate.workflow:
                main["buildInstructions"] = ref(self.entities.environment(name))

    def _run(self, runs: list[Run]) -> str:
        """The run of the whole workflow. Returns its @id."""
        crate, made = self.crate, {f.path: f for run in runs for f in run.results}
        folders = {path: run for run in runs for path in run.folders}
        results = []
        for path in crate.targets:
            if path in made:
                results.append(self._output(self.entities.result(made[path]), "File"))
            elif path in folders:
                folder = self.entities.folder(path, folders[path].below(path))
                results.append(self._output(folder, "Dataset"))
        values = [local("value", key) for key in crate.parameters]
        read = [path for run in runs for path in run.job.inputs]
        sources = [self.entities.input(p) for p in read if p not in made and p not in folders]
        sources += [self.entities.input(file.path, file) for run in runs for file in run.sources]
        return self.actions.add(
            "#workflow-run", crate.name[:1].upper() + crate.name[1:],
            "All jobs behind these results.", self.main,
            object=refs([*values, *dict.fromkeys(sources)]), result=refs(results),
            resourceUsage=self.entities.usage(
                "workflow",
                seconds=total([run.seconds for run in runs]),
                energy_joules=total([run.facts.energy_joules for run in runs])
                if crate.energy_joules is None
                else crate.energy_joules,
                dollars=crate.dollars,
            ),
            **times(runs),
        )  # fmt: skip

    def _output(self, result: str, kind: str) -> str:
        """A target of the workflow is one of its formal outputs. Returns the target's @id."""
        if kind in self.graph.entities[result]["@type"]:
            name = local("output", result)
            self.graph.add(
                name, "FormalParameter", name=result, additionalType=kind, workExample=ref(result)
            )
            self.graph.entities[result]["exampleOfWork"] = ref(name)
            self.graph.extend(self.main, "output", name)
        return result
