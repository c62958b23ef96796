# Figures, the LaTeX source and the PDF, from the record alone.
TEMPLATE = "report/technical_report.tex.j2"
BIBLIOGRAPHY = "report/references.bib"
CAPTIONS = "report/captions.yaml"


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


rule render_report:
    input:
        record="results/benchmark_results.json",
        template=TEMPLATE,
        captions=CAPTIONS,
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
        code=content_sha256([*program("render_report"), TEMPLATE, CAPTIONS]),
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
        pdf="report/technical_report.pdf",
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
