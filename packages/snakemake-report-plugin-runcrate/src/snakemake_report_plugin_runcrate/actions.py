"""Jobs as actions: what ran, on which files, with which tool, and who or what took part."""

from __future__ import annotations

from . import terms
from .entities import Entities
from .graph import local, of_file, ref, refs
from .hooks import Attempt
from .runs import Run, iso


class Actions:
    """Adds the actions of jobs. `code` are properties of the workflow's own files."""

    def __init__(self, entities: Entities, code: dict[str, str]) -> None:
        self.entities, self.graph, self.crate = entities, entities.graph, entities.crate
        self.code = code
        self.main = of_file(self.crate.workflow[self.crate.main].path)
        self.agent = entities.person(self.crate.agent) if self.crate.agent else None

    def add(self, name: str, title: str, description: str, tool: str, **properties: object) -> str:
        """Add a CreateAction, which has succeeded unless `properties` say otherwise."""
        properties.setdefault("actionStatus", terms.DONE)
        self.graph.add(
            name, "CreateAction", name=title, description=description or None,
            instrument=ref(tool), agent=ref(self.agent) if self.agent else None, **properties,
        )  # fmt: skip
        self.graph.extend("./", "mentions", name)
        return name

    def job(self, run: Run) -> str:
        """A job's actions, failed attempts before the good one. Returns its ControlAction."""
        job, facts, tool = run.job, run.facts, self._tool(run)
        key = (job.rule, *(f"{k}={v}" for k, v in sorted(job.wildcards.items())))
        used = self._used(run, key)
        made = [self.entities.result(file) for file in run.results]
        made += [self.entities.folder(path, run.below(path)) for path in run.folders]
        failed = [
            self._failed(run, number, attempt, tool, used)
            for number, attempt in enumerate((a for a in facts.attempts if a.error), 1)
        ]
        paid = [attempt.dollars for attempt in facts.attempts if not attempt.error]
        done = self.add(
            local("run", *key), job.name, job.description, tool,
            object=refs(used), result=refs(made),
            location=refs(dict.fromkeys(map(self.entities.machine, facts.machines))),
            resourceUsage=self.entities.usage(
                job.name, seconds=run.seconds, energy_joules=facts.energy_joules,
                dollars=total(paid),
            ),
            **times([run]),
        )  # fmt: skip
        return self.graph.add(
            local("control", *key),
            "ControlAction",
            name=f"Snakemake runs {job.name}",
            instrument=ref(self._step(run, tool)),
            object=refs([*failed, done]),
            actionStatus=terms.DONE,
        )

    def _used(self, run: Run, key: tuple[str, ...]) -> list[str]:
        """The @ids of what a job was given: files, wildcards, params and further references."""
        used = [self.entities.input(path) for path in run.job.inputs]
        used += [self.entities.input(file.path, file) for file in run.sources]
        for name, text in sorted(run.job.wildcards.items()):
            used.append(
                self.graph.add(
                    local("wildcard", name, text), "PropertyValue", name=name, value=text
                )
            )
        for name, value in run.params.items():
            used.append(self.entities.value("param", *key, name, value=value))
        used += map(self.entities.used, run.facts.references)
        return list(dict.fromkeys(used))

    def _failed(self, run: Run, number: int, attempt: Attempt, tool: str, used: list[str]) -> str:
        name, ended = f"{run.job.name}, failed attempt {number}", attempt.ended
        return self.add(
            local("run", attempt.name), name, run.job.description, tool,
            object=refs(used), actionStatus=terms.FAILED, error=attempt.error,
            resourceUsage=self.entities.usage(
                name, seconds=attempt.seconds, dollars=attempt.dollars
            ),
            startTime=None if ended is None else iso(ended - (attempt.seconds or 0)),
            endTime=None if ended is None else iso(ended),
        )  # fmt: skip

    def _tool(self, run: Run) -> str:
        """The script of a job's rule, or the rule itself; with the software that it needs."""
        job, workflow = run.job, self.crate.workflow
        if job.script and job.script in workflow:
            tool = of_file(workflow[job.script].path)
            entity = self.graph.entities[tool]
            entity["@type"] = ["File", "SoftwareSourceCode"]
            entity |= self.code
            if language := terms.SCRIPTS.get(tool.rpartition(".")[2].lower()):
                entity.setdefault("programmingLanguage", language)
        else:
            home = of_file(workflow[job.snakefile].path)
            tool = self.graph.add(
                local("rule", job.rule), "SoftwareSourceCode", name=f"rule {job.rule}",
                description=job.description or None, text=job.command,
                programmingLanguage=ref("#snakemake"), isPartOf=ref(home), **self.code,
            )  # fmt: skip
        self.graph.extend(self.main, "hasPart", tool)
        needs = [self.entities.package(*pair) for pair in sorted(run.facts.packages.items())]
        if job.environment and job.environment in workflow:
            needs.append(self.entities.environment(job.environment))
        if job.container:
            needs.append(self.entities.container(job.container))
        for need in needs:
            self.graph.extend(tool, "softwareRequirements", need)
        return tool

    def _step(self, run: Run, tool: str) -> str:
        name, steps = local("step", run.job.rule), self.graph.entities[self.main]["step"]
        if name not in self.graph.entities:
            self.graph.add(
                name, "HowToStep", name=run.job.rule, position=str(len(steps) + 1),
                description=run.job.description or None, workExample=ref(tool),
            )  # fmt: skip
            self.graph.extend(self.main, "step", name)
        return name


def times(runs: list[Run]) -> dict[str, str]:
    """The start of the first and the end of the last of `runs`, where they are known."""
    begins = [run.started for run in runs if run.started]
    ends = [run.ended for run in runs if run.ended]
    return {"startTime": min(begins), "endTime": max(ends)} if begins and ends else {}


def total(figures: list[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return round(sum(known), 6) if known else None
