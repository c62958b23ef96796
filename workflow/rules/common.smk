# Settings and helpers that the rules share. Whatever need not know Snakemake is plain Python in workflow/*.py.
import json
import shlex
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The repository comes first, also before an installed package that has the name of one of ours (`kernels` is on PyPI).
ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from evaluation.checks import CHECKED_PROMPT, CHECKED_TOKENS, path_checks
from evaluation.modelled import PLATFORMS
from evaluation.provenance import prediction_files, validation_files
from workflow.config import complete, record_of
from workflow.interpreter import model_python, sdk_versions
from workflow.preflight import (
    PreflightError,
    require,
    require_health,
    require_printable,
)
from workflow.project import (
    check_files,
    content_sha256,
    device_launches,
    driver_files,
    environment,
    figure_captions,
    flags,
    kernel_files,
    kernel_test_files,
    leaderboard_files,
    program_files,
    prompt_hashes,
    submission_files,
    table_captions,
)

if Path.cwd() != ROOT.resolve():
    raise WorkflowError(f"The workflow runs in its own folder. First: cd {ROOT}")
if set("{}") & set(str(ROOT)):
    raise WorkflowError(
        f"Snakemake takes braces in a path for wildcards. Move this folder: {ROOT}"
    )

try:
    config.update(complete(config, ROOT))
    PROMPTS = prompt_hashes(config["evaluation"]["prompts"])
except ValueError as error:
    raise WorkflowError(str(error)) from None

MODEL_MANIFEST = "results/model_manifest.json"
PREDICTIONS = expand("results/predictions/{platform}.json", platform=PLATFORMS)
JOBS_LOCK = ".snakemake/jobs.lock"
VARIANTS = ["baseline", "nki"]
KERNELS = kernel_files()
DEVICE_LAUNCHES = device_launches()
FIGURES = figure_captions(config)
FIGURE_FILES = expand(
    "report/figures/{figure}.{ext}", figure=FIGURES, ext=["pdf", "png"]
)
TABLES = table_captions(config)
TABLE_FILES = expand("results/tables/{table}.{ext}", table=TABLES, ext=["csv", "html"])

# The steps that touch the model or the kernels run where the backend is; everything else runs beside Snakemake.
BACKEND = config["backend"]
ON_CPU = BACKEND == "simulator"
ON_DEVICE = BACKEND == "neuron"
MODEL_PYTHON = model_python(BACKEND, config["neuron"]["python"])

# What no clock looks at needs the device to itself where there is one; beside the simulator it runs as there are cores.
DEVICE_IF_ANY = int(ON_DEVICE)

# Flags of main.py. Each rule carries, as `params`, those that its result depends on; no others can rerun it.
PLACE_FLAGS = flags(
    backend=BACKEND,
    platform_target=config["platform_target"],
    model_path=config["model"]["path"],
    model_manifest=MODEL_MANIFEST,
)
RANKS = config["neuron"]["tp_degree"] if ON_DEVICE else None
MODEL_FLAGS = (
    f"{PLACE_FLAGS} {flags(torch_dtype=config['model']['dtype'], tp_degree=RANKS)}"
)
KERNEL_FLAGS = flags(kernel_path=config["model"]["kernel_path"])
EVALUATION_FLAGS = flags(
    seq_len=config["evaluation"]["sequence_length"],
    max_new_tokens=config["evaluation"]["max_new_tokens"],
    warmup_runs=config["evaluation"]["warmup_runs"],
    timed_runs=config["evaluation"]["timed_runs"],
    seed=config["evaluation"]["seed"],
)
# The graphs of a device have a length; a simulator's artefact has none.
COMPILE_FLAGS = flags(
    seq_len=config["evaluation"]["sequence_length"] if ON_DEVICE else None
)
ACCURACY_FLAGS = flags(
    divergence_difference_tol=config["evaluation"]["divergence_difference_tolerance"],
    tol_map=json.dumps(config["evaluation"]["tolerance_map"]),
)
# The doctor looks before the first job; the checkpoint's hashes are compared by each job itself.
DOCTOR_FLAGS = flags(
    backend=BACKEND,
    platform_target=config["platform_target"],
    model_path=config["model"]["path"],
    warmup_runs=config["evaluation"]["warmup_runs"],
    timed_runs=config["evaluation"]["timed_runs"],
    prompts_file=config["evaluation"]["prompts"],
    tp_degree=RANKS,
)
EVALUATIONS = ("evaluate_baseline", "evaluate_nki")

CHECKS = {check.name: check for check in path_checks(config)}
CHECK_FLAGS = flags(
    prompt_id=CHECKED_PROMPT,
    seq_len=config["evaluation"]["sequence_length"],
    max_new_tokens=CHECKED_TOKENS,
    warmup_runs=0,
    timed_runs=1,
    seed=config["evaluation"]["seed"],
)
# What was measured with other versions of these packages is stale.
VERSIONS = environment()
SDK = sdk_versions(MODEL_PYTHON) if ON_DEVICE else {}

# Environment of every job: the variables that decide results are set here, whatever the user's shell says. A path in
# the prefix, unlike one in `params`, reruns nothing when it changes.
shell.executable("bash")
shell.prefix(
    "; ".join(
        [
            "set -euo pipefail",
            f"export PYTHON={shlex.quote(sys.executable)}",
            f"export MODEL_PYTHON={shlex.quote(MODEL_PYTHON)}",
            f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}",
            "export PYTHONUNBUFFERED=1",
            "export NKI_SIMULATOR=1" if ON_CPU else "unset NKI_SIMULATOR",
            # A device that hangs must not hold the machine for ever; results do not depend on it.
            f"export TIME_LIMIT_S={config['neuron']['time_limit_s'] if ON_DEVICE else ''}",
            f"export NEURON_PLATFORM_TARGET_OVERRIDE={config['platform_target']}",
            "unset NKI_PRECISE_FP",
            # What outlives a killed Snakemake is noticed by the next run (workflow.preflight.require_quiet).
            f"exec 8>>{JOBS_LOCK}; flock --shared 8" if shutil.which("flock") else ":",
            "",
        ]
    )
    .replace("{", "{{")
    .replace("}", "}}")
)


wildcard_constraints:
    variant="|".join(VARIANTS),
    kernel="|".join(KERNELS),
    cores="1|2",
    prompt="|".join(PROMPTS),
    figure="|".join(FIGURES),
    table="|".join(TABLES),
    check="|".join(CHECKS),
    platform="|".join(PLATFORMS),


def preflight(dag):
    """Stop before the first job when one of the jobs to run lacks a tool."""
    try:
        rules = {job.rule.name for job in dag.needrun_jobs()} - {"doctor"}
        if not rules:
            return
        require(rules, BACKEND, MODEL_PYTHON, Path(JOBS_LOCK))
        if "render_report" in rules:
            require_printable(config["team"])
        if ON_DEVICE and rules & {"compile_baseline", "compile_nki", *EVALUATIONS}:
            require_health(MODEL_PYTHON, shlex.split(DOCTOR_FLAGS), ROOT)
    except PreflightError as error:
        raise WorkflowError(str(error)) from None


# The hash of a job's sources is among its `params`. Dates alone would miss a file that was edited while the job ran, or
# replaced by one with an older date. (Snakemake leaves params that are derived from inputs out of the comparison.)
def program(rule_name):
    """Return the files that the program of a rule consists of."""
    return program_files(f"workflow/scripts/{rule_name}.py")
