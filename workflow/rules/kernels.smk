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
        backend=config["backend"],
        platform=config["platform_target"],
        versions=VERSIONS,
    message:
        "Testing kernel {wildcards.kernel} against its oracle"
    shell:
        '"$MODEL_PYTHON" test_nki_kernels.py --kernel {wildcards.kernel} --json {output.result} 2>&1 | tee {log} >&2'
