"""Names that others have given: profiles, media types, units, states of an action."""

CRATE = "https://w3id.org/ro/crate/1.1"
WORKFLOW_CRATE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
PROFILES = {
    f"https://w3id.org/ro/wfrun/{name}/0.5": f"{name.title()} Run Crate"
    for name in ("process", "workflow", "provenance")
}
PROFILES[WORKFLOW_CRATE] = "Workflow RO-Crate"
SNAKEMAKE = "https://snakemake.github.io"
CONDA = "https://docs.conda.io/"
MEDIA = {
    ".cff": "application/yaml",
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".py": "text/x-python",
    ".safetensors": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".toml": "application/toml",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
SCRIPTS = {  # suffix: language
    "py": "Python",
    "ipynb": "Jupyter Notebook",
    "r": "R",
    "rmd": "R Markdown",
    "jl": "Julia",
    "rs": "Rust",
    "sh": "Bash",
}
USAGE = {  # figure: unit, by QUDT
    "seconds": "http://qudt.org/vocab/unit/SEC",
    "energy_joules": "http://qudt.org/vocab/unit/J",
    "dollars": "http://qudt.org/vocab/currency/USD",
}
DONE, FAILED = (f"http://schema.org/{name}ActionStatus" for name in ("Completed", "Failed"))
BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
LANGUAGE = "https://w3id.org/workflowhub/workflow-ro-crate#snakemake"
