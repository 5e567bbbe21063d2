"""Jobs whose files are in a storage of Snakemake (`--default-storage-provider`)."""
