"""Write the questions of every regime in three splits that share no question."""

from ablation.bridge.data.questions import NumberWorld
from ablation.bridge.data.readers import NOTICE, read_data_set
from ablation.config.bridge_blocks import DataSet, Questions, QuestionWorld
from ablation.provenance.files import write_json_lines, write_text
from ablation.provenance.job import Job, run
from ablation.vocabulary.bridge import SPLITS


def main(job: Job) -> None:
    config, outputs, read = job.config, [], {}
    for regime in config["regimes"]:
        if regime in config.get("data", ()):
            data = DataSet.model_validate(config["data"][regime])
            pin = config["pins"].get(data.data)
            records, read[regime] = read_data_set(regime, data, pin)
        else:
            counts = Questions.model_validate(config["questions"])
            world = NumberWorld(QuestionWorld.model_validate(config["world"]), counts.seed)
            records = {s: world.make_questions(regime, s, counts.count(regime, s)) for s in SPLITS}
        for split in SPLITS:
            outputs.append(job.home / regime / f"{split}.jsonl")
            write_json_lines(outputs[-1], records[split])
    if rehearsal := config.get("rehearsal_of"):
        write_text(job.home.parent / "README.md", NOTICE.format(study=rehearsal))
    job.write_manifest(outputs, **({"read": read} if read else {}))


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
