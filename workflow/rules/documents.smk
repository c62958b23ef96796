# Documents that say what the sources say: made by a rule, committed, and held against the sources by a test.
RULE_FILES = [
    "Snakefile",
    *sorted(str(file) for file in Path("workflow").glob("rules/*.smk")),
]


rule rule_graph:
    input:
        rules=RULE_FILES,
        code=program("rule_graph"),
    output:
        document="docs/workflow.md",
    log:
        "logs/rule_graph.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256([*program("rule_graph"), *RULE_FILES]),
    message:
        "Drawing the rules"
    shell:
        '"$PYTHON" -m workflow.scripts.rule_graph --root . --output {output.document} > {log} 2>&1'


# README itself is written by people; the rule replaces its block of results alone, so README is no output.
rule readme:
    input:
        record="results/benchmark_results.json",
        report="report/technical_report.pdf",
        code=program("readme"),
    output:
        result="docs/results.json",
        png="docs/technical_report.png",
    log:
        "logs/readme.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256(program("readme")),
    message:
        "Writing README's results and picture"
    shell:
        '"$PYTHON" -m workflow.scripts.readme --record {input.record} --report {input.report} --readme README.md'
        " --output {output.result} --png {output.png} > {log} 2>&1"
