# For a device, too, the record's tests run in the simulator, which counts instructions; the device's own are below.
KERNEL_TESTS = (
    '"$MODEL_PYTHON" test_nki_kernels.py --backend neuron-simulator'
    if BACKEND == "neuron-simulator"
    else '"$PYTHON" test_nki_kernels.py --backend simulator'
)


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
        device=DEVICE_IF_ANY,
    params:
        code=lambda wildcards: content_sha256(kernel_test_files(wildcards.kernel)),
        backend=BACKEND,
        platform=config["platform_target"],
        versions=VERSIONS,
    message:
        "Testing kernel {wildcards.kernel} against its oracle"
    shell:
        KERNEL_TESTS
        + " --jobs 1 --kernel {wildcards.kernel} --json {output.result} 2>&1 | tee {log} >&2"


# On a device: the shapes of Qwen3-30B-A3B alone, since every case is compiled, for each size of a logical core. Not part
# of the record, whose accuracy is measured on the device itself.
rule device_tests:
    input:
        expand("results/device_tests/{launch}.json", launch=DEVICE_LAUNCHES),


rule test_on_device:
    input:
        code=lambda wildcards: kernel_test_files(wildcards.kernel),
    output:
        result="results/device_tests/{kernel}_lnc{cores}.json",
    log:
        "logs/test_on_device/{kernel}_lnc{cores}.log",
    benchmark:
        "logs/test_on_device/{kernel}_lnc{cores}.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        device=1,
    params:
        code=lambda wildcards: content_sha256(kernel_test_files(wildcards.kernel)),
        sdk=SDK,
        platform=config["platform_target"],
    message:
        "Testing kernel {wildcards.kernel} on the device, {wildcards.cores} core(s)"
    shell:
        '${{TIME_LIMIT_S:+timeout "$TIME_LIMIT_S"}} "$MODEL_PYTHON" test_nki_kernels.py --backend neuron --kind true'
        " --kernel {wildcards.kernel} --cores {wildcards.cores} --json {output.result} 2>&1 | tee {log} >&2"
