"""Runs and a study's facts -> the graph of a Provenance Run Crate (Workflow Run RO-Crate 0.5).

The crate is the results folder. Beside the results it holds WORKFLOW_COPY, the workflow as it
stands, so that it means the same wherever it is taken. All here is pure: no file is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ablation import hub
from ablation.provenance import WORKFLOW_COPY

from . import terms
from .graph import DESCRIPTOR, Graph, local, of_file, ref, refs, short
from .runs import File, Run, iso, machine

MAIN = f"{WORKFLOW_COPY}/Snakefile"


@dataclass(frozen=True)
class Facts:
    """What is true of the whole study, beside its runs."""

    study: str
    parameters: Mapping[str, object]  # {dotted key: value}
    targets: Sequence[str]
    workflow: Mapping[str, File]  # {path in the repository: its copy in the crate}
    snakemake: str  # version
    home: str = "results"
    citation: Mapping = field(default_factory=dict)  # CITATION.cff
    commit: str | None = None
    dirty: bool | None = None
    agent: str | None = None
    dollars: float | None = None  # of all that the ledger says


def build(runs: Sequence[Run], facts: Facts) -> dict:
    """The crate's metadata; equal runs and facts give equal JSON."""
    graph = Graph()
    standards = refs([terms.CRATE, terms.WORKFLOW_CRATE])
    graph.add(DESCRIPTOR, "CreativeWork", about=ref("./"), conformsTo=standards)
    graph.add("./", "Dataset")
    _Writer(graph, facts).write(runs)
    return graph.document()


class _Writer:
    def __init__(self, graph: Graph, facts: Facts) -> None:
        self.graph, self.facts = graph, facts
        self.agent = self._person(facts.agent) if facts.agent else None
        changed = ", with uncommitted changes" if facts.dirty else ""
        code = {
            "version": facts.commit and facts.commit + changed,
            "url": facts.citation.get("repository-code"),
        }
        self.code = {key: value for key, value in code.items() if value}  # of all our own files

    def write(self, runs: Sequence[Run]) -> None:
        self._root(runs)
        for original, file in sorted(self.facts.workflow.items()):
            self._file(file, name=original)
        self._workflow()
        study = self._study_run(runs)
        controls = [self._job(run) for run in runs]
        self.graph.add(
            "#engine-run",
            "OrganizeAction",
            name=f"Snakemake {self.facts.snakemake} over study {self.facts.study}",
            instrument=ref(self._package("snakemake", self.facts.snakemake)),
            agent=ref(self.agent) if self.agent else None,
            object=refs(controls),
            result=ref(study),
            actionStatus=terms.DONE,
            **_times(runs),
        )
        root = self.graph.entities["./"]
        root["hasPart"] = refs(self.graph.data())

    # ---- the study ------------------------------------------------------------------------------

    def _root(self, runs: Sequence[Run]) -> None:
        cff, facts = self.facts.citation, self.facts
        for profile, name in terms.PROFILES.items():
            self.graph.add(profile, "CreativeWork", name=name, version=profile.rpartition("/")[2])
        licence = cff.get("license")
        spdx = f"https://spdx.org/licenses/{licence}"
        if licence:
            self.graph.add(spdx, "CreativeWork", name=licence, url=spdx)
        people = [self._author(author) for author in cff.get("authors", ())]
        groups = [n for n in people if self.graph.entities[n]["@type"] == "Organization"]
        root = {
            "name": f"Results of the study {facts.study}",
            "description": f"Tables, figures, checkpoints and sample rows of the study "
            f"{facts.study}, with every job that made them: {cff.get('title', 'ablation')}.",
            "datePublished": _times(runs).get("endTime", "1970")[:10],
            "license": ref(spdx) if licence else "No licence is stated.",
            "conformsTo": refs(terms.PROFILES),
            "mainEntity": ref(MAIN),
            "author": refs(people),
            "publisher": refs(groups),
            "mentions": [],
        }
        self.graph.entities["./"] |= {key: value for key, value in root.items() if value}

    def _workflow(self) -> None:
        """The Snakefile as main entity, the engine's language, configuration keys as parameters."""
        facts, main = self.facts, self.graph.entities[MAIN]
        self.graph.add(
            "#snakemake", "ComputerLanguage", name="Snakemake", url=ref(terms.SNAKEMAKE),
            identifier=ref(terms.LANGUAGE),
        )  # fmt: skip
        main["@type"] = ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]
        main |= {
            "name": self.facts.citation.get("title", "ablation"),
            "programmingLanguage": ref("#snakemake"),
            "conformsTo": ref(terms.BIOSCHEMAS),
            "license": self.graph.entities["./"]["license"],
            "input": refs(self._parameter(key) for key in facts.parameters),
            "output": [],
            "step": [],
            "hasPart": [],
            **self.code,
        }
        if "environment.yml" in facts.workflow:
            recipe = facts.workflow["environment.yml"].path
            self.graph.entities[recipe]["conformsTo"] = ref(terms.CONDA)
            main["buildInstructions"] = ref(recipe)

    def _parameter(self, key: str) -> str:
        """A configuration key: a FormalParameter, and the value that this study gives it."""
        value = self.facts.parameters[key]
        name, example = local("parameter", key), local("value", key)
        self.graph.add(
            name, "FormalParameter", name=key, additionalType=_data_type(value),
            workExample=ref(example), valueRequired=False,
        )  # fmt: skip
        self.graph.add(
            example, "PropertyValue", name=key, value=_plain(value), exampleOfWork=ref(name)
        )
        return name

    def _study_run(self, runs: Sequence[Run]) -> str:
        facts, made = self.facts, {f.path: f for run in runs for f in run.results}
        results = [self._result(made[path]) for path in facts.targets if path in made]
        for name in results:
            self._output(name)
        values = [local("value", key) for key in facts.parameters]
        sources = [self._input(p) for run in runs for p in run.job.inputs if p not in made]
        sources += [self._input(file.path, file) for run in runs for file in run.sources]
        return self._action(
            "#study-run", f"Study {facts.study}", "All jobs behind these results.", MAIN,
            object=refs([*values, *dict.fromkeys(sources)]), result=refs(results),
            resourceUsage=self._usage(
                "study",
                seconds=_sum(run.total("seconds") for run in runs),
                energy_joules=_sum(run.total("energy_joules") for run in runs),
                dollars=facts.dollars,
            ),
            **_times(runs),
        )  # fmt: skip

    def _output(self, file: str) -> None:
        """A target of the study is a formal output of the workflow."""
        if "File" in self.graph.entities[file]["@type"]:
            name = local("output", file)
            self.graph.add(
                name, "FormalParameter", name=file, additionalType="File", workExample=ref(file)
            )
            self.graph.entities[file]["exampleOfWork"] = ref(name)
            self.graph.extend(MAIN, "output", name)

    # ---- jobs -----------------------------------------------------------------------------------

    def _job(self, run: Run) -> str:
        """A job's actions, failed attempts before the good one. Returns its ControlAction."""
        job, tool = run.job, self._tool(run)
        key = (job.rule, *(f"{k}={v}" for k, v in sorted(job.wildcards.items())))
        used = [self._input(path) for path in job.inputs]
        used += [self._input(file.path, file) for file in run.sources]
        used += [self._wildcard(*pair) for pair in sorted(job.wildcards.items())]
        used += self._hub(run) + self._commits(run)
        made = [self._result(file) for file in run.results]
        failed = [
            self._failed(run, number, line, tool, used)
            for number, line in enumerate((a for a in run.attempts if a["why"] != "done"), 1)
        ]
        paid = [line["dollars"] for line in run.attempts if line["why"] == "done"]
        done = self._action(
            local("run", *key), job.name, job.description, tool,
            object=refs(dict.fromkeys(used)), result=refs(made),
            location=self._machine(run),
            resourceUsage=self._usage(
                job.name, seconds=run.total("seconds"),
                energy_joules=run.total("energy_joules"), dollars=_sum(paid),
            ),
            **_times([run]),
        )  # fmt: skip
        return self.graph.add(
            local("control", *key),
            "ControlAction",
            name=f"Snakemake runs {job.name}",
            instrument=ref(self._step(run, tool)),
            object=refs([*failed, done]),
            actionStatus=terms.DONE,
        )

    def _failed(self, run: Run, number: int, line: Mapping, tool: str, used: list[str]) -> str:
        name = f"{run.job.name}, failed attempt {number}"
        ended = float(line["time"]) if "time" in line else None
        started = ended - line.get("seconds", 0) if ended is not None else None
        return self._action(
            local("run", line["attempt"]), name, run.job.description, tool,
            object=refs(dict.fromkeys(used)), actionStatus=terms.FAILED, error=line["why"],
            resourceUsage=self._usage(
                name, seconds=line.get("seconds"), dollars=line.get("dollars")
            ),
            startTime=started and iso(started), endTime=ended and iso(ended),
        )  # fmt: skip

    def _action(self, name: str, title: str, description: str, tool: str, **properties) -> str:
        properties.setdefault("actionStatus", terms.DONE)
        agent = ref(self.agent) if self.agent else None
        self.graph.add(
            name, "CreateAction", name=title, description=description, instrument=ref(tool),
            agent=agent, **properties,
        )  # fmt: skip
        self.graph.extend("./", "mentions", name)
        return name

    def _tool(self, run: Run) -> str:
        """The script of a job's rule, or the file of the rule itself; with what it needs."""
        workflow = self.facts.workflow
        tool = (workflow.get(run.job.script) or workflow[run.job.snakefile]).path
        tool = of_file(tool)
        entity = self.graph.entities[tool]
        entity["@type"] = ["File", "SoftwareSourceCode"]
        entity |= self.code
        language = ref("#snakemake") if tool.endswith(".smk") else "Python"
        entity.setdefault("programmingLanguage", language)
        self.graph.extend(MAIN, "hasPart", tool)
        for manifest in run.manifests:
            for package, version in sorted(manifest["stamp"].get("packages", {}).items()):
                self.graph.extend(tool, "softwareRequirements", self._package(package, version))
        return tool

    def _package(self, name: str, version: str) -> str:
        url = f"pkg:pypi/{name.replace('_', '-')}@{version}"  # github.com/package-url/purl-spec
        return self.graph.add(
            url, "SoftwareApplication", name=name, softwareVersion=version, url=url
        )  # fmt: skip

    def _step(self, run: Run, tool: str) -> str:
        name = local("step", run.job.rule)
        if name not in self.graph.entities:
            position = len(self.graph.entities[MAIN]["step"]) + 1
            self.graph.add(
                name, "HowToStep", name=run.job.rule, position=str(position),
                description=run.job.description, workExample=ref(tool),
            )  # fmt: skip
            self.graph.extend(MAIN, "step", name)
        return name

    def _wildcard(self, key: str, value: str) -> str:
        return self.graph.add(local("wildcard", key, value), "PropertyValue", name=key, value=value)

    def _hub(self, run: Run) -> list[str]:
        """Models and data sets of the hub, at their commits, that a job's manifests name."""
        found = []
        for manifest in run.manifests:
            pins = dict(manifest["stamp"]["config"].get("pins") or {})
            names = {f"datasets/{name}": commit for name, commit in pins.items() if commit}
            if commit := hub.commit_in(manifest):
                names[manifest["model"]] = commit
            for name, commit in sorted(names.items()):
                url = f"https://huggingface.co/{name}/tree/{commit}"
                found.append(
                    self.graph.add(url, "CreativeWork", name=name, version=commit, url=url)
                )
        return found

    def _commits(self, run: Run) -> list[str]:
        """The commit that each record says was checked out."""
        found = []
        for record in run.records:
            if commit := record.get("git_hash"):
                changed = ", with uncommitted changes" if record.get("git_dirty") else ""
                name = local("commit", commit + ("-changed" if changed else ""))
                title = f"git commit {commit}{changed}"
                self.graph.add(name, "CreativeWork", name=title, version=commit)
                found.append(name)
        return found

    def _machine(self, run: Run) -> list[dict]:
        found = {}
        for record in run.records:
            if "host" in record:
                line = machine(record)
                name = local("machine", record["host"], short(line))
                self.graph.add(name, "Place", name=record["host"], description=line)
                found[name] = None
        return refs(found)

    def _usage(self, of: str, **figures: float | None) -> list[dict]:
        """What an action took, as far as it is known."""
        known = {figure: value for figure, value in figures.items() if value is not None}
        return refs(
            self.graph.add(
                local("usage", of, figure), "PropertyValue", name=figure, value=value,
                propertyID=figure, unitCode=terms.USAGE[figure],
            )
            for figure, value in known.items()
        )  # fmt: skip

    # ---- files and people -----------------------------------------------------------------------

    def _file(self, file: File, name: str | None = None) -> str:
        media = terms.MEDIA.get(os.path.splitext(file.path)[1], "text/plain")
        return self.graph.add(
            of_file(file.path), "File", name=name or file.path, contentSize=str(file.bytes),
            sha256=file.sha256, encodingFormat=media,
        )  # fmt: skip

    def _result(self, file: File) -> str:
        path = os.path.relpath(file.path, self.facts.home)
        if not file.here:
            return self._elsewhere(file)
        return self._file(File(path, file.sha256, file.bytes))

    def _elsewhere(self, file: File) -> str:
        """What is known by its hash but does not lie in the crate."""
        return self.graph.add(
            local("elsewhere", file.path), "CreativeWork", name=file.path,
            description="Not in this crate.", sha256=file.sha256, contentSize=str(file.bytes),
        )  # fmt: skip

    def _input(self, path: str, file: File | None = None) -> str:
        if path in self.facts.workflow:
            return of_file(self.facts.workflow[path].path)
        inside = of_file(os.path.relpath(path, self.facts.home))
        if inside in self.graph.entities:
            return inside
        if file:
            return self._elsewhere(file)
        return self.graph.add(
            local("elsewhere", path), "CreativeWork", name=path, description="Not in this crate."
        )

    def _author(self, author: Mapping) -> str:
        """An author of CITATION.cff, a person or a group."""
        if "name" in author:
            return self.graph.add(
                local("organization", author["name"]), "Organization", name=author["name"],
                url=author.get("website"),
            )  # fmt: skip
        names = " ".join(filter(None, (author.get("given-names"), author.get("family-names"))))
        group = author.get("affiliation")
        group = group and self.graph.add(local("organization", group), "Organization", name=group)
        return self.graph.add(
            author.get("orcid") or local("person", names), "Person", name=names,
            affiliation=ref(group) if group else None,
        )  # fmt: skip

    def _person(self, text: str) -> str:
        """`NAME` or `NAME <URL>`."""
        name, _, url = text.partition("<")
        name, url = name.strip(), url.strip().rstrip(">")
        return self.graph.add(url or local("person", name), "Person", name=name or url)


def _times(runs: Sequence[Run]) -> dict[str, str]:
    begins = [run.started for run in runs if run.started]
    ends = [run.ended for run in runs if run.ended]
    return {"startTime": min(begins), "endTime": max(ends)} if begins and ends else {}


def _sum(figures) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return round(sum(known), 6) if known else None


def _data_type(value: object) -> str:
    kinds = {bool: "Boolean", int: "Integer", float: "Float"}
    return kinds.get(type(value), "Text")


def _plain(value: object) -> object:
    """Numbers, switches and text as they are; a list, a mapping or nothing as JSON."""
    plain = isinstance(value, bool | int | float | str)
    return value if plain else json.dumps(value, sort_keys=True, ensure_ascii=False)
