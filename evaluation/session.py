"""One run of main.py: its options, its checkpoint, its compiled artefact and its prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evaluation import artefact, evaluate
from evaluation.accuracy import CHALLENGE_TOLERANCES
from evaluation.backends import Backend, DriverError
from evaluation.commandline import MAKE_MODEL, Options
from evaluation.console import Progress
from evaluation.flags import GENERATE
from evaluation.models import Model, SimulatedModel
from evaluation.prompts import Prompt, load_prompts

if TYPE_CHECKING:
    import torch

    from model.generation import Generation

DEFAULT_PROMPT = "I believe the meaning of life is"
"""What the challenge's driver continues when no prompt is given."""


@dataclass(frozen=True)
class Session:
    """One run of main.py: its options, the checkpoint's description, and how to tell progress."""

    options: Options
    backend: Backend
    progress: Progress
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, options: Options, backend: Backend, progress: Progress) -> Session:
        """Hash the checkpoint's files; DriverError for none, ManifestError for a damaged one."""
        if not (options.model_path / "config.json").is_file():
            raise DriverError(
                f"--model-path {options.model_path}: no Hugging Face checkpoint (config.json) "
                f"there; `{MAKE_MODEL}` makes a small one in results/model"
            )
        from model import manifest

        if options.model_manifest is None:
            described = manifest.describe(options.model_path)
        else:
            described = manifest.read(options.model_manifest)
            manifest.verify(options.model_path, described)
        return cls(options, backend, progress, described)

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer; compiling needs none."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.options.model_path, local_files_only=True)

    @property
    def compile_settings(self) -> artefact.CompileSettings:
        """What an artefact is compiled for."""
        options = self.options
        return artefact.CompileSettings(
            backend=options.backend,
            platform_target=options.platform_target,
            dtype=options.torch_dtype,
        )

    @property
    def settings(self) -> evaluate.Settings:
        """What is run for each prompt."""
        options = self.options
        return evaluate.Settings(
            sequence_length=options.seq_len,
            max_new_tokens=options.max_new_tokens,
            warmup_runs=options.warmup_runs,
            timed_runs=options.timed_runs,
            dtype=options.torch_dtype,
            seed=options.seed,
        )

    @property
    def rule(self) -> evaluate.Rule:
        """The accuracy rule with the tolerances that were given."""
        options = self.options
        return evaluate.Rule(
            tolerance_map=options.tol_map or CHALLENGE_TOLERANCES,
            divergence_difference_tolerance=options.divergence_difference_tol,
            tokens_to_check=options.num_tokens_to_check,
        )

    def show(self, text: str) -> None:
        """Print a result."""
        self.progress.clear()
        print(text, flush=True)

    def load(self, variant: str) -> Model:
        """Load the model of a variant."""
        self.progress(f"loading the {variant} model")
        return self.backend.load(self, variant)

    def encode(self, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        """Return the token ids of each prompt; EvaluationError for one that does not fit."""
        return [evaluate.encode(self.tokenizer, prompt, self.settings) for prompt in prompts]

    def subject(self, variant: str, artefact_key: str) -> evaluate.Subject:
        """Say what is evaluated."""
        options = self.options
        return evaluate.Subject(
            variant=variant,
            backend=options.backend,
            platform_target=options.platform_target,
            model_path=options.model_path,
            model_manifest_sha256=self.manifest["sha256"],
            artefact_key=artefact_key,
            kernel_path=options.kernel_path,
        )


class Telling:
    """A model that tells its decode steps while it generates."""

    def __init__(self, model: SimulatedModel, progress: Progress) -> None:
        self._model = model
        self._progress = progress
        self._step = self._steps = 0

    def generate(
        self,
        input_ids: torch.Tensor,
        new_tokens: int,
        forced_tokens: torch.Tensor | None = None,
    ) -> Generation:
        """See `model.generation.generate_greedily`."""
        from model.generation import generate_greedily

        self._step, self._steps = 0, new_tokens - 1
        return generate_greedily(self, input_ids, new_tokens, forced_tokens)

    def prefill(self, input_ids: torch.Tensor, capacity: int) -> torch.Tensor:
        """Read the prompt."""
        return self._model.prefill(input_ids, capacity)

    def decode(self, token: int) -> torch.Tensor:
        """Read one more token."""
        logits = self._model.decode(token)
        self._step += 1
        self._progress.step("decode step", self._step, self._steps)
        return logits

    def hidden_states(self, input_ids: torch.Tensor, token: int) -> torch.Tensor:
        """See `evaluation.models.SimulatedModel`."""
        return self._model.hidden_states(input_ids, token)


def chosen_prompts(options: Options) -> list[Prompt]:
    """Return the prompts that a command line asks for."""
    if options.prompts:
        return [Prompt(i, "command line", text) for i, text in enumerate(options.prompts)]
    if options.mode == GENERATE and options.prompt_id is None:
        return [Prompt(0, "the challenge's default", DEFAULT_PROMPT)]
    prompts = load_prompts(options.prompts_file)
    if options.prompt_id is None:
        return prompts
    if options.prompt_id >= len(prompts):
        raise DriverError(
            f"--prompt-id {options.prompt_id}: {options.prompts_file} holds {len(prompts)} "
            f"prompts, 0 to {len(prompts) - 1}"
        )
    return [prompts[options.prompt_id]]
