# On a device the kernels are still compared with their oracles in the simulator: there instructions are counted.
KERNEL_PYTHON = 'NKI_SIMULATOR=1 "$PYTHON"' if ON_DEVICE else '"$MODEL_PYTHON"'


# Each kernel against its oracle: an edited kernel file reruns the tests of the kernels in it.
rule test_kernel:
    input:
        code=lambda wildcards: kernel_test_files(wildcards.kernel),
    output:
        result="results/kernel_tests/{kernel}.json",
    log:
        "logs/test_kernel/{kernel}.log",
    benchmark:
        "logs/test_kernel/{kernel}.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        device=1,
    params:
        code=lambda wildcards: content_sha256(kernel_test_files(wildcards.kernel)),
        backend=BACKEND,
        platform=config["platform_target"],
        versions=VERSIONS,
    message:
        "Testing kernel {wildcards.kernel} against its oracle"
    shell:
        KERNEL_PYTHON
        + " test_nki_kernels.py --kernel {wildcards.kernel} --json {output.result} 2>&1 | tee {log} >&2"
