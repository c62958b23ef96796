# One prompt with one variant of the model. The prompts file is read by every evaluation, but what reruns one is the
# hash of its own prompt, not the file: editing a prompt reruns that prompt's evaluations alone. Evaluations wait for
# each other, so they start before whatever can run beside them.
rule evaluate_baseline:
    input:
        model=MODEL_MANIFEST,
        artefact="results/compiled/baseline/manifest.json",
        prompts=ancient(config["evaluation"]["prompts"]),
        code=driver_files("evaluate", "baseline", BACKEND),
    output:
        result="results/evaluations/baseline/prompt_{prompt}.json",
        logits="results/evaluations/baseline/prompt_{prompt}.npz",
    log:
        "logs/evaluate/baseline_{prompt}.log",
    benchmark:
        "logs/evaluate/baseline_{prompt}.tsv"
    priority: 1
    conda:
        "../../envs/cpu.yaml"
    resources:
        device=1,
    params:
        flags=f"{MODEL_FLAGS} {EVALUATION_FLAGS}",
        code=content_sha256(driver_files("evaluate", "baseline", BACKEND)),
        versions=VERSIONS,
        sdk=SDK,
        prompt_sha256=lambda wildcards: PROMPTS[wildcards.prompt],
    message:
        "Evaluating prompt {wildcards.prompt} with the baseline"
    shell:
        '"$MODEL_PYTHON" main.py --mode evaluate_single --prompt-id {wildcards.prompt} --prompts-file {input.prompts:q}'
        " ${{TIME_LIMIT_S:+--time-limit-s=$TIME_LIMIT_S}}"
        ' {params.flags} --skip-compile --compiled-model-path "$(dirname {input.artefact})"'
        " --output {output.result} 2>&1 | tee {log} >&2"


rule evaluate_nki:
    input:
        model=MODEL_MANIFEST,
        artefact="results/compiled/nki/manifest.json",
        baseline="results/evaluations/baseline/prompt_{prompt}.json",
        logits="results/evaluations/baseline/prompt_{prompt}.npz",
        prompts=ancient(config["evaluation"]["prompts"]),
        code=driver_files("evaluate", "nki", BACKEND),
    output:
        result="results/evaluations/nki/prompt_{prompt}.json",
    log:
        "logs/evaluate/nki_{prompt}.log",
    benchmark:
        "logs/evaluate/nki_{prompt}.tsv"
    priority: 1
    conda:
        "../../envs/cpu.yaml"
    resources:
        device=1,
    params:
        flags=lambda _: f"--enable-nki {MODEL_FLAGS} {KERNEL_FLAGS} {EVALUATION_FLAGS} {ACCURACY_FLAGS}",
        code=content_sha256(driver_files("evaluate", "nki", BACKEND)),
        versions=VERSIONS,
        sdk=SDK,
        prompt_sha256=lambda wildcards: PROMPTS[wildcards.prompt],
    message:
        "Evaluating prompt {wildcards.prompt} with the NKI kernels"
    shell:
        '"$MODEL_PYTHON" main.py --mode evaluate_single --prompt-id {wildcards.prompt} --prompts-file {input.prompts:q}'
        " ${{TIME_LIMIT_S:+--time-limit-s=$TIME_LIMIT_S}}"
        ' {params.flags} --skip-compile --compiled-model-path "$(dirname {input.artefact})"'
        ' --baseline-path "$(dirname {input.baseline})" --output {output.result} 2>&1 | tee {log} >&2'


# A few tokens by every other kernel path, and by the configured one in the other dtype, against a baseline of their own:
# no kernel of the submission is without a run in the model. What is compiled for the other dtype is a side effect.
rule check_path:
    input:
        model=MODEL_MANIFEST,
        artefact="results/compiled/nki/manifest.json",
        prompts=ancient(config["evaluation"]["prompts"]),
        code=check_files(),
    output:
        result="results/path_checks/{check}.json",
    log:
        "logs/check_path/{check}.log",
    benchmark:
        "logs/check_path/{check}.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        device=DEVICE_IF_ANY,
    params:
        flags=lambda wildcards: f"--enable-nki {PLACE_FLAGS} {CHECK_FLAGS} {ACCURACY_FLAGS}"
        f" {flags(**CHECKS[wildcards.check]._asdict())}",
        compiled=lambda wildcards: (
            "results/compiled/nki"
            if CHECKS[wildcards.check].torch_dtype == config["model"]["dtype"]
            else "results/compiled/checked"
        ),
        code=content_sha256(check_files()),
        versions=VERSIONS,
        prompt_sha256=PROMPTS[str(CHECKED_PROMPT)],
    message:
        "Checking a few tokens by {wildcards.check}"
    shell:
        '"$MODEL_PYTHON" main.py --mode evaluate_single --prompts-file {input.prompts:q} {params.flags}'
        " --compiled-model-path {params.compiled} --output {output.result} 2>&1 | tee {log} >&2"
