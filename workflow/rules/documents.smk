# Documents that say what the sources say: made by a rule, committed, and held against the sources by a test.
RULE_FILES = ["Snakefile", *sorted(str(file) for file in Path("workflow").glob("rules/*.smk"))]


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
