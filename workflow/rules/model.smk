# The checkpoint. Its files are a side effect: the output is the manifest of their hashes, written last, which every
# later step takes as input and verifies.
if config["model"]["repo_id"] is None:

    rule make_tiny_model:
        input:
            code=program("make_tiny_model"),
        output:
            manifest=MODEL_MANIFEST,
        log:
            "logs/make_tiny_model.log",
        priority: 2
        conda:
            "../../envs/cpu.yaml"
        params:
            code=content_sha256(program("make_tiny_model")),
            path=lambda _: config["model"]["path"],
            seed=config["model"]["seed"],
        message:
            "Making a tiny Qwen3-MoE checkpoint in {params.path}"
        shell:
            '"$PYTHON" -m workflow.scripts.make_tiny_model --directory {params.path:q} --seed {params.seed}'
            " --manifest {output.manifest} 2>&1 | tee {log} >&2"

else:

    rule download_model:
        input:
            code=program("download_model"),
        output:
            manifest=MODEL_MANIFEST,
        log:
            "logs/download_model.log",
        priority: 2
        conda:
            "../../envs/cpu.yaml"
        params:
            code=content_sha256(program("download_model")),
            repo_id=config["model"]["repo_id"],
            revision=config["model"]["revision"],
            path=lambda _: config["model"]["path"],
        message:
            "Fetching {params.repo_id} at {params.revision} into {params.path}"
        shell:
            '"$PYTHON" -m workflow.scripts.download_model --repo-id {params.repo_id} --revision {params.revision}'
            " --directory {params.path:q} --manifest {output.manifest} 2>&1 | tee {log} >&2"
