# Look at what this machine lacks, whenever asked: snakemake doctor. Runs on a device do so before their first job.
rule doctor:
    log:
        "logs/doctor.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        flags=DOCTOR_FLAGS,
    message:
        "Looking at what a run needs"
    shell:
        '"$MODEL_PYTHON" main.py --mode doctor {params.flags} 2>&1 | tee {log} >&2'


# One compiled artefact per variant of the model. The artefact lies beside its manifest, which is the output.
rule compile_baseline:
    input:
        model=MODEL_MANIFEST,
        code=driver_files("compile", "baseline", BACKEND),
    output:
        manifest="results/compiled/baseline/manifest.json",
    log:
        "logs/compile/baseline.log",
    benchmark:
        "logs/compile/baseline.tsv"
    priority: 2
    conda:
        "../../envs/cpu.yaml"
    resources:
        device=DEVICE_IF_ANY,
    params:
        code=content_sha256(driver_files("compile", "baseline", BACKEND)),
        flags=f"{MODEL_FLAGS} {COMPILE_FLAGS}",
        sdk=SDK,
    message:
        "Compiling the baseline"
    shell:
        '"$MODEL_PYTHON" main.py --compile-only {params.flags} ${{TIME_LIMIT_S:+--time-limit-s=$TIME_LIMIT_S}}'
        ' --compiled-model-path "$(dirname {output.manifest})" 2>&1 | tee {log} >&2'


use rule compile_baseline as compile_nki with:
    input:
        model=MODEL_MANIFEST,
        code=driver_files("compile", "nki", BACKEND),
    output:
        manifest="results/compiled/nki/manifest.json",
    log:
        "logs/compile/nki.log",
    benchmark:
        "logs/compile/nki.tsv"
    params:
        code=content_sha256(driver_files("compile", "nki", BACKEND)),
        flags=f"--enable-nki {MODEL_FLAGS} {COMPILE_FLAGS}",
        sdk=SDK,
    message:
        "Compiling the model with NKI kernels"
