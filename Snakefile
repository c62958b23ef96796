# From NKI kernels to the report. The rules lie in workflow/rules, one file per stage; what is measured is set in
# config/config.yaml. Run it by ./run, or in the environment that ./run makes: snakemake --cores 1 [TARGET...]
from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


# What `snakemake --report` says first; its results are the outputs that rules mark as report(...).
report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/compile.smk"
include: "workflow/rules/kernels.smk"
include: "workflow/rules/tuning.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/results.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/archive.smk"
include: "workflow/rules/latency.smk"
include: "workflow/rules/documents.smk"


# Only runs that have work to do come here, before their first job.
onstart:
    preflight(workflow.dag)


rule all:
    default_target: True
    input:
        "report/technical_report.pdf",
        "results/benchmark_results.json",
        FIGURE_FILES,
        TABLE_FILES,
