# The latency model against published measurements: not part of the report's run, a result of its own.
rule validate_latency:
    input:
        code=validation_files(),
    output:
        result="results/validation/latency.json",
        table="results/validation/latency.md",
        pdf="results/validation/latency.pdf",
        png="results/validation/latency.png",
    log:
        "logs/validate_latency.log",
    benchmark:
        "logs/validate_latency.tsv"
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256(validation_files()),
    message:
        "Comparing the latency model with published measurements"
    shell:
        '"$PYTHON" -m validation --output {output.result} --table {output.table}'
        " --figure {output.pdf} {output.png} 2>&1 | tee {log} >&2"
