# What the latency model says of the whole model on a chip, whatever is evaluated here.
rule predict_latency:
    input:
        code=prediction_files(),
    output:
        result="results/predictions/{platform}.json",
    log:
        "logs/predict_latency/{platform}.log",
    benchmark:
        "logs/predict_latency/{platform}.tsv"
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256(prediction_files()),
    message:
        "Predicting times on {wildcards.platform}"
    shell:
        '"$PYTHON" -m prediction --platform {wildcards.platform} --output {output.result} 2>&1 | tee {log} >&2'


# The latency model against published measurements.
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
        " --pdf {output.pdf} --png {output.png} 2>&1 | tee {log} >&2"
