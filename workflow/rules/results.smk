# The record: everything measured, and apart from it what is modelled, in one validated file. A copy of each is kept for
# the history.
HISTORY = "results/history/records"


rule aggregate_results:
    input:
        evaluations=expand(
            "results/evaluations/{variant}/prompt_{prompt}.json",
            variant=VARIANTS,
            prompt=PROMPTS,
        ),
        checks=expand("results/path_checks/{check}.json", check=CHECKS),
        artefacts=expand("results/compiled/{variant}/manifest.json", variant=VARIANTS),
        kernel_tests=expand("results/kernel_tests/{kernel}.json", kernel=KERNELS),
        predictions=PREDICTIONS,
        validation="results/validation/latency.json",
        ladder="results/tuning_ladder.json",
        model=MODEL_MANIFEST,
        prompts=config["evaluation"]["prompts"],
        code=program("aggregate_results"),
    output:
        record=report(
            "results/benchmark_results.json",
            caption="../report/record.rst",
            category="Data",
            subcategory="the record",
            labels={"file": "Record (JSON)"},
        ),
    log:
        "logs/aggregate_results.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256(program("aggregate_results")),
        prompts=[*PROMPTS.values()],
        config=lambda _: record_of(config),
        history=HISTORY,
    message:
        "Collecting the record"
    shell:
        '"$PYTHON" -m workflow.scripts.aggregate_results --config {params.config:q} --prompts {input.prompts:q}'
        " --evaluations {input.evaluations} --checks {input.checks} --artefacts {input.artefacts} --kernel-tests {input.kernel_tests}"
        " --predictions {input.predictions} --validation {input.validation} --ladder {input.ladder}"
        " --model-manifest {input.model} --history {params.history} --output {output.record} > {log} 2>&1"


# What became better or worse over the records of earlier runs. They lie in a folder that every run adds to; records
# from elsewhere are put there by hand, and `snakemake --forcerun history history` reads them.
rule history:
    input:
        record="results/benchmark_results.json",
        code=program("history"),
    output:
        result="results/history/history.json",
        table="results/history/history.md",
        pdf="results/history/history.pdf",
        png="results/history/history.png",
    log:
        "logs/history.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256(program("history")),
        records=HISTORY,
    message:
        "Comparing the record with those of earlier runs"
    shell:
        '"$PYTHON" -m workflow.scripts.history --record {input.record} --records {params.records}'
        " --output {output.result} --table {output.table} --pdf {output.pdf} --png {output.png} 2>&1 | tee {log} >&2"
