# One compiled artefact per variant of the model. The artefact lies beside its manifest, which is the output.
rule compile_baseline:
    input:
        model=MODEL_MANIFEST,
        code=driver_files("compile", "baseline"),
    output:
        manifest="results/compiled/baseline/manifest.json",
    log:
        "logs/compile/baseline.log",
    benchmark:
        "logs/compile/baseline.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        device=1,
    params:
        code=content_sha256(driver_files("compile", "baseline")),
        flags=MODEL_FLAGS,
    message:
        "Compiling the baseline"
    shell:
        '"$MODEL_PYTHON" main.py --compile-only {params.flags}'
        ' --compiled-model-path "$(dirname {output.manifest})" 2>&1 | tee {log} >&2'


use rule compile_baseline as compile_nki with:
    input:
        model=MODEL_MANIFEST,
        code=driver_files("compile", "nki"),
    output:
        manifest="results/compiled/nki/manifest.json",
    log:
        "logs/compile/nki.log",
    benchmark:
        "logs/compile/nki.tsv"
    params:
        code=content_sha256(driver_files("compile", "nki")),
        flags=f"--enable-nki {MODEL_FLAGS}",
    message:
        "Compiling the model with NKI kernels"
