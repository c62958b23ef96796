"""NxD Inference as the driver calls it: configure, compile, load, generate, time.

The only module that touches NxD Inference. Its imports stand inside functions, so that everything
else runs where the SDK is not. What is called, and with what, is what the challenge's own driver
calls; a model module must offer `NeuronQwen3MoeForCausalLM`.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.mac_ratio import DECODE, GRAPHS, PREFILL

if TYPE_CHECKING:
    import torch

    from model.generation import Generation

MODULES = {"baseline": "model.qwen", "nki": "model.qwen_with_nki"}
"""The module of each variant; the challenge's driver asks it for one class by name."""

Arguments = dict[str, Any]
"""Keywords of a NeuronConfig as JSON; dtypes are names."""

_DTYPES = ("torch_dtype", "rpl_reduce_dtype", "attention_dtype", "router_dtype")
_SAMPLING = ("do_sample", "top_k", "top_p", "temperature", "dynamic", "global_topk")
_NO_CONFIGURATION = {
    *_SAMPLING, "qwen", "on_device_sampling", "benchmark_report_path", "hlo_debug", "skip_warmup",
    "max_loras", "max_lora_rank", "max_cpu_loras", "quantize_clamp_bound",
}  # fmt: skip
"""Values of the command line that the driver acts on itself, or that only LoRA or quantisation
reads; the rest are keywords of the configuration."""

NOT_DRIVEN = (
    "draft_model_path", "compiled_draft_model_path", "enable_fused_speculation",
    "enable_eagle_speculation", "is_medusa", "medusa_tree_json", "token_tree_json", "enable_lora",
    "lora_ckpt_json", "lora_ckpt_paths", "adapter_ids", "modules_to_not_convert_file", "quantized",
    "compile_dry_run", "on_cpu", "capture_indices", "input_capture_save_dir",
    "is_continuous_batching",
)  # fmt: skip
"""Flags of the challenge's driver whose work this one does not do."""


class NeuronError(RuntimeError):
    """NxD Inference did not do what the driver relies on; the message says what."""


class NoForwardPass(NeuronError):
    """A generation in which one of the two graphs never ran: its time cannot be told."""


@dataclass(frozen=True)
class Timed:
    """A generation that was timed: its tokens [N], and seconds inside the two graphs."""

    tokens: NDArray[np.int64]
    prefill_s: float
    decode_s: list[float]


def configuration(
    device: Mapping[str, Any], seq_len: int, batch_size: int, torch_dtype: str
) -> Arguments:
    """Return the keywords of the NeuronConfig for a command line, as JSON.

    `device` holds the values of the device's flags. A switch that is off is left to the model's
    own configuration class, as one that was not given. Blocks of experts run in torch, which the
    challenge's driver forces on every model.
    """
    given = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in device.items()
        if value is not None and value is not False and key not in _NO_CONFIGURATION
    }
    if "enable_bucketing" in device:
        given["enable_bucketing"] = device["enable_bucketing"]
    given |= {
        "batch_size": batch_size,
        "seq_len": seq_len,
        "max_length": seq_len,
        "torch_dtype": torch_dtype,
        "blockwise_matmul_config": {"use_torch_block_wise": True},
    }
    if device.get("on_device_sampling"):
        sampling = {key: device[key] for key in _SAMPLING if device.get(key) is not None}
        given["on_device_sampling_config"] = sampling
    return given


def build(variant: str, model_path: Path, arguments: Mapping[str, Any]) -> Any:
    """Return NxD Inference's application for a variant: neither compiled nor loaded."""
    import torch
    from neuronx_distributed_inference.models.config import OnDeviceSamplingConfig
    from neuronx_distributed_inference.utils.hf_adapter import load_pretrained_config

    keywords = dict(arguments)
    for key in _DTYPES:
        if key in keywords:
            keywords[key] = getattr(torch, keywords[key])
    if "on_device_sampling_config" in keywords:
        keywords["on_device_sampling_config"] = OnDeviceSamplingConfig(
            **keywords["on_device_sampling_config"]
        )
    application = importlib.import_module(MODULES[variant]).NeuronQwen3MoeForCausalLM
    neuron_config = application.get_neuron_config_cls()(**keywords)
    config = application.get_config_cls()(
        neuron_config, load_config=load_pretrained_config(str(model_path))
    )
    return application(str(model_path), config)


def compile_model(application: Any, directory: Path, debug: bool) -> None:
    """Compile into `directory`. Releases differ in whether they add the slash themselves."""
    application.compile(f"{directory}/", debug=debug)


def load_model(application: Any, directory: Path, model_path: Path, skip_warmup: bool) -> Device:
    """Load what was compiled onto the device and return the model there."""
    application.load(f"{directory}/", **({"skip_warmup": True} if skip_warmup else {}))
    return Device(application, model_path)


def buckets(application: Any) -> dict[str, list[int]]:
    """Return the lengths, in tokens, that each graph is compiled for, in NxD Inference's order."""
    return {
        graph: [int(size) for size in getattr(application, graph).neuron_config.buckets]
        for graph in GRAPHS
    }


def why_not(application: Any) -> list[dict[str, str]]:
    """Return the hooks that kept NxD Inference's implementation while the graphs were traced."""
    told = getattr(application, "why_not", None)
    if told is None:
        return []
    return [
        {"kernel": entry.kernel, "reason": f"{entry.phase}: {entry.reason}"} for entry in told()
    ]


class Device:
    """A loaded model: greedy generation through NxD Inference's adapter, graph by graph timed."""

    def __init__(self, application: Any, model_path: Path) -> None:
        from neuronx_distributed_inference.utils.hf_adapter import HuggingFaceGenerationAdapter
        from transformers import GenerationConfig

        self._application = application
        self._adapter = HuggingFaceGenerationAdapter(application)
        self._clocks = {graph: Clock(getattr(application, graph)) for graph in GRAPHS}
        settings = GenerationConfig.from_pretrained(str(model_path))
        # An end-of-text token ends nothing: every run has as many tokens as were asked for.
        settings.update(do_sample=False, top_k=1, top_p=1.0, temperature=1.0, eos_token_id=[])
        self._settings = settings

    def generate(
        self,
        input_ids: torch.Tensor,
        new_tokens: int,
        forced_tokens: torch.Tensor | None = None,
    ) -> Generation:
        """Generate greedily with logits; see `model.generation.generate_greedily`.

        A device decodes its own choices. With `forced_tokens`, the generation is therefore started
        again behind each token that differs, as the vendor's logit validation does it: the forced
        tokens up to there become part of the prompt.
        """
        import torch

        from model.generation import Generation

        timed, logits = self._with_logits(input_ids, new_tokens)
        tokens, start = timed.tokens, 0
        while forced_tokens is not None:
            forced = forced_tokens.numpy()
            differing = np.flatnonzero(
                tokens[start : new_tokens - 1] != forced[start : new_tokens - 1]
            )
            if not differing.size:
                break
            start += int(differing[0]) + 1
            prompt = torch.cat([input_ids, forced_tokens[:start]])
            rest, rest_logits = self._with_logits(prompt, new_tokens - start)
            tokens = np.concatenate([tokens[:start], rest.tokens])
            logits = np.concatenate([logits[:start], rest_logits])
        return Generation(tokens, logits, timed.prefill_s, timed.decode_s)

    def generate_timed(self, input_ids: torch.Tensor, new_tokens: int) -> Timed:
        """Generate greedily without asking for logits, whose transfer would be timed as well."""
        output = self._run(input_ids, new_tokens)
        return self._timed(output[0, len(input_ids) :], new_tokens)

    def _with_logits(
        self, input_ids: torch.Tensor, new_tokens: int
    ) -> tuple[Timed, NDArray[np.float32]]:
        import torch

        output = self._run(input_ids, new_tokens, return_dict_in_generate=True, output_scores=True)
        scores = output.scores or ()
        if len(scores) != new_tokens:
            raise NeuronError(
                f"{len(scores)} rows of logits for {new_tokens} tokens: a model that samples on "
                "the device must be compiled with output_logits (--output-logits)"
            )
        logits = torch.cat(list(scores)).float().cpu().numpy()
        return self._timed(output.sequences[0, len(input_ids) :], new_tokens), logits

    def _run(self, input_ids: torch.Tensor, new_tokens: int, **keywords: Any) -> Any:
        import torch

        for clock in self._clocks.values():
            clock.forget()
        self._application.reset()
        with torch.inference_mode():
            return self._adapter.generate(
                input_ids=input_ids[None],
                attention_mask=torch.ones_like(input_ids[None]),
                generation_config=self._settings,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                **keywords,
            )

    def _timed(self, tokens: torch.Tensor, new_tokens: int) -> Timed:
        if len(tokens) != new_tokens:
            raise NeuronError(f"{len(tokens)} tokens were generated, {new_tokens} were asked for")
        prefill, decode = (self._clocks[graph].seconds for graph in (PREFILL, DECODE))
        if not prefill or (new_tokens > 1 and not decode):
            raise NoForwardPass(
                f"{PREFILL} ran {len(prefill)} times and {DECODE} {len(decode)} times during a "
                f"generation of {new_tokens} tokens: this release calls its graphs another way, so "
                "their times are not known"
            )
        return Timed(tokens.cpu().numpy().astype(np.int64), sum(prefill), list(decode))


class Clock:
    """Seconds of each forward pass of a module, by hooks, as the vendor's collectors take them.

    With asynchronous execution a pass returns before the device is done: then these are the times
    that the host spent, and only the end-to-end time is the device's.
    """

    def __init__(self, module: Any) -> None:
        self.seconds: list[float] = []
        self._start_s = 0.0
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def forget(self) -> None:
        """Start a new list."""
        self.seconds = []

    def _before(self, *_: Any) -> None:
        self._start_s = time.perf_counter()

    def _after(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start_s)
