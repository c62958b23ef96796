"""The pipeline: what its rules need beside Snakemake."""
