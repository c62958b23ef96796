# Tuned variants of kernels: one job each, so that any executor can spread them. The ladders' steps are part of the record;
# the table of all variants is not: ask for it by `snakemake tune`.
from kernels.variants import ladder_variants
from kernels.variants import variants as tuned_variants
from workflow.project import tuning_files

TUNED_VARIANTS = tuned_variants()


wildcard_constraints:
    tuned="|".join(TUNED_VARIANTS),


# What a variant's name stands for is among its params, not the table of all: a new value reruns no other variant.
rule tune_variant:
    input:
        code=lambda wildcards: tuning_files(TUNED_VARIANTS[wildcards.tuned].kernel),
    output:
        result="results/tuning/{tuned}.json",
    log:
        "logs/tune_variant/{tuned}.log",
    benchmark:
        "logs/tune_variant/{tuned}.tsv"
    conda:
        "../../envs/cpu.yaml"
    params:
        code=lambda wildcards: content_sha256(
            tuning_files(TUNED_VARIANTS[wildcards.tuned].kernel)
        ),
        settings=lambda wildcards: dict(TUNED_VARIANTS[wildcards.tuned].settings),
        versions=VERSIONS,
    message:
        "Evaluating {wildcards.tuned}"
    shell:
        'NKI_SIMULATOR=1 "$PYTHON" -m tuning variant {wildcards.tuned} --output {output.result} 2>&1 | tee {log} >&2'


# A variant that is broken stands in the table as such; a chosen one that is broken, or not the fastest for no reason
# given, stops here.
rule collect_tuning:
    input:
        results=expand("results/tuning/{tuned}.json", tuned=TUNED_VARIANTS),
        code=program_files("tuning/__main__.py", without=["nki_sim"]),
    output:
        result="results/tuning.json",
        table="results/tuning.md",
    log:
        "logs/collect_tuning.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256(program_files("tuning/__main__.py", without=["nki_sim"])),
    message:
        "Collecting the tuned variants"
    shell:
        '"$PYTHON" -m tuning collect {input.results} --output {output.result} --table {output.table} 2>&1 | tee {log} >&2'


rule collect_ladder:
    input:
        results=expand("results/tuning/{tuned}.json", tuned=ladder_variants()),
        code=program_files("tuning/__main__.py", without=["nki_sim"]),
    output:
        result="results/tuning_ladder.json",
    log:
        "logs/collect_ladder.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256(program_files("tuning/__main__.py", without=["nki_sim"])),
    message:
        "Collecting the steps of tuning"
    shell:
        '"$PYTHON" -m tuning ladder {input.results} --output {output.result} > {log} 2>&1'


rule tune:
    input:
        "results/tuning.json",
        "results/tuning.md",
