# Documents that say what the sources say: made by a rule, committed, and held against the sources by a test.
from report.badges import BADGES

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


# README itself is written by people; the rule replaces its generated parts alone, so README is no output.
rule readme:
    input:
        record="results/benchmark_results.json",
        report="report/technical_report.pdf",
        figures=expand("report/figures/{figure}.png", figure=FIGURES),
        code=program("readme"),
    output:
        result="docs/results.json",
        page="docs/figures.md",
        badges=expand("docs/badges/{badge}.svg", badge=BADGES),
        figures=expand("docs/figures/{figure}.png", figure=FIGURES),
        png="docs/technical_report.png",
    log:
        "logs/readme.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256(program("readme")),
    message:
        "Writing README's results, badges and pictures"
    shell:
        '"$PYTHON" -m workflow.scripts.readme --record {input.record} --report {input.report} --figures report/figures'
        " --root . > {log} 2>&1"
