# The record: everything measured, and apart from it what is modelled, in one validated file.
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
        model=MODEL_MANIFEST,
        prompts=config["evaluation"]["prompts"],
        code=program("aggregate_results"),
    output:
        record="results/benchmark_results.json",
    log:
        "logs/aggregate_results.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256(program("aggregate_results")),
        prompts=[*PROMPTS.values()],
        config=lambda _: record_of(config),
    message:
        "Collecting the record"
    shell:
        '"$PYTHON" -m workflow.scripts.aggregate_results --config {params.config:q} --prompts {input.prompts:q}'
        " --evaluations {input.evaluations} --checks {input.checks} --artefacts {input.artefacts} --kernel-tests {input.kernel_tests}"
        " --predictions {input.predictions} --validation {input.validation}"
        " --model-manifest {input.model} --output {output.record} > {log} 2>&1"
