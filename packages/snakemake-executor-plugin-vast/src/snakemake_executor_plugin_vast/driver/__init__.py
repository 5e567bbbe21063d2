"""What runs beside Snakemake: rents machines, runs jobs on them and ends them."""
