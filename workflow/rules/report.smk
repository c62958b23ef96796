# Figures, tables, the LaTeX source and the PDF, from the record alone. What `snakemake --report` shows is marked report(...).
TEMPLATE = "report/technical_report.tex.j2"
BIBLIOGRAPHY = "report/references.bib"


rule plot_figure:
    input:
        record="results/benchmark_results.json",
        code=program("plot_figure"),
    output:
        pdf="report/figures/{figure}.pdf",
        png=report(
            "report/figures/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
            subcategory=lambda wildcards: FIGURES[wildcards.figure].basis,
            labels=lambda wildcards: {"figure": FIGURES[wildcards.figure].title},
        ),
    log:
        "logs/plot_figure/{figure}.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256(program("plot_figure")),
        caption=lambda wildcards: FIGURES[wildcards.figure].caption,
        basis=lambda wildcards: FIGURES[wildcards.figure].basis,
    message:
        "Drawing figure {wildcards.figure}"
    shell:
        '"$PYTHON" -m workflow.scripts.plot_figure --figure {wildcards.figure} --record {input.record}'
        " --pdf {output.pdf} --png {output.png} > {log} 2>&1"


# As a page for readers, and as CSV, which Snakemake's report can only offer for download.
rule tabulate:
    input:
        record="results/benchmark_results.json",
        code=program("tabulate"),
    output:
        csv=report(
            "results/tables/{table}.csv",
            caption="../report/table.rst",
            category="Data",
            subcategory="tables as CSV",
            labels=lambda wildcards: {
                "file": f"{TABLES[wildcards.table].title} (CSV)"
            },
        ),
        html=report(
            "results/tables/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            subcategory=lambda wildcards: TABLES[wildcards.table].basis,
            labels=lambda wildcards: {"table": TABLES[wildcards.table].title},
        ),
    log:
        "logs/tabulate/{table}.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256(program("tabulate")),
        caption=lambda wildcards: TABLES[wildcards.table].caption,
        basis=lambda wildcards: TABLES[wildcards.table].basis,
    message:
        "Making table {wildcards.table}"
    shell:
        '"$PYTHON" -m workflow.scripts.tabulate --name {wildcards.table} --record {input.record}'
        " --csv {output.csv} --html {output.html} > {log} 2>&1"


rule render_report:
    input:
        record="results/benchmark_results.json",
        template=TEMPLATE,
        code=program("render_report"),
    output:
        tex="report/technical_report.tex",
        numbers="report/technical_report.numbers.json",
    log:
        "logs/render_report.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        code=content_sha256([*program("render_report"), TEMPLATE]),
    message:
        "Writing the report's source"
    shell:
        '"$PYTHON" -m workflow.scripts.render_report --record {input.record} --figures report/figures'
        " --numbers {output.numbers} --output {output.tex} > {log} 2>&1"


rule build_pdf:
    input:
        record="results/benchmark_results.json",
        tex="report/technical_report.tex",
        bibliography=BIBLIOGRAPHY,
        figures=expand("report/figures/{figure}.pdf", figure=FIGURES),
        code=program("build_pdf"),
    output:
        pdf=report(
            "report/technical_report.pdf",
            caption="../report/technical_report.rst",
            category="Report",
            labels={"document": "Technical report (PDF)"},
        ),
    log:
        "logs/build_pdf.log",
    localrule: True
    conda:
        "../../envs/tex.yaml"
    params:
        code=content_sha256([*program("build_pdf"), BIBLIOGRAPHY]),
    message:
        "Typesetting the report"
    shell:
        '"$PYTHON" -m workflow.scripts.build_pdf --record {input.record} --tex {input.tex} --output {output.pdf}'
        " > {log} 2>&1"
