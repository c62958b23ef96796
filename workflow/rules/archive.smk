# The one file that the leaderboard takes.
rule leaderboard:
    input:
        sources=leaderboard_files(),
        code=program("leaderboard"),
    output:
        file="results/leaderboard/qwen_with_nki.py",
    log:
        "logs/leaderboard.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256([*program("leaderboard"), *leaderboard_files()]),
    message:
        "Laying model and kernels into one file"
    shell:
        '"$PYTHON" -m workflow.scripts.leaderboard --output {output.file} > {log} 2>&1'


# The submission: packed, then unpacked elsewhere and tested there.
rule archive:
    input:
        pdf="report/technical_report.pdf",
        tex="report/technical_report.tex",
        record="results/benchmark_results.json",
        bibliography=BIBLIOGRAPHY,
        figures=expand("report/figures/{figure}.pdf", figure=FIGURES),
        submitted=submission_files(),
        code=program("archive"),
    output:
        zip="results/submission.zip",
    log:
        "logs/archive.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256([*program("archive"), *submission_files(), BIBLIOGRAPHY]),
    message:
        "Packing the submission"
    shell:
        '"$PYTHON" -m workflow.scripts.archive --record {input.record} --tex {input.tex} --pdf {input.pdf}'
        " --output {output.zip} > {log} 2>&1"


rule verify_archive:
    input:
        zip="results/submission.zip",
        code=program("verify_archive"),
    output:
        result="results/submission_verified.json",
    log:
        "logs/verify_archive.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: workflow.cores or 1
    params:
        code=content_sha256(program("verify_archive")),
    message:
        "Unpacking the submission elsewhere and testing it there"
    shell:
        '"$MODEL_PYTHON" -m workflow.scripts.verify_archive --archive {input.zip} --output {output.result}'
        " --jobs {threads} 2>&1 | tee {log} >&2"
