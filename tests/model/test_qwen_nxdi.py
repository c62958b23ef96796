"""The model files for NxD Inference on its double: the driver's contract, the small kernels in
hooks (kernel path "rows"), and the weights of NxDI's modules."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nxdi_double
import nxdi_models
import pytest
import torch
from nxdi_models import (
    CAPACITY,
    build,
    changed_checkpoint,
    drift,
    load_config,
    logits,
    reference_logits,
)
from safetensors.torch import load_file

import nki_sim
from kernels.specs import SPECS
from model import baseline, dispatch, neuron_hooks, neuron_state, tiny
from model.plan import expected_launches

ROOT = Path(__file__).resolve().parents[2]
STOCK = "neuronx_distributed_inference.models.qwen3_moe.modeling_qwen3_moe"
PROMPT = torch.arange(100, 120)
# As for the model on the CPU: logits near 30, where float32 has a spacing of 2e-6 and bfloat16 of
# 0.125, and some tens of sums in another order.
FLOAT32_DRIFT = 5e-5
BFLOAT16_DRIFT = 1.0
FINAL_NORM = "NxDI calls the final norm with the sum, which the last layer makes"
ROWS = "nki_kernel_path is 'rows'"


def on_cpu(path: Path, settings: dict[str, Any] | None = None, **changes: Any) -> Any:
    """The model with small kernels in NxDI's hooks."""
    return nxdi_models.on_cpu(path, {"nki_kernel_path": "rows"} | (settings or {}), **changes)


@pytest.fixture(autouse=True)
def cpu_mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NXD_CPU_MODE", "1")
    neuron_hooks.forget()
    yield
    neuron_hooks.forget()


@pytest.fixture(params=nxdi_double.RELEASES)
def release(request: pytest.FixtureRequest) -> Iterator[str]:
    with nxdi_double.installed(request.param):
        yield request.param


@pytest.fixture
def newest() -> Iterator[None]:
    with nxdi_double.installed(nxdi_double.RELEASES[-1]):
        yield


def reasons(kernel: str, phase: str) -> list[str]:
    return [w.reason for w in neuron_hooks.why_not() if (w.kernel, w.phase) == (kernel, phase)]


# The contract --------------------------------------------------------------------------------


def test_the_baseline_is_nxdis_own_objects(release):
    ours, stock = importlib.import_module("model.qwen"), importlib.import_module(STOCK)
    for name in ours.__all__:
        assert getattr(ours, name) is getattr(stock, name)
    assert "NeuronQwen3MoeForCausalLM" in ours.__all__


def test_the_drivers_calls(release, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("BASE_COMPILE_WORK_DIR", str(tmp_path / "work"))
    model = build(checkpoint, {"on_cpu": True})
    assert type(model).__name__ == "NeuronQwen3MoeForCausalLM"
    assert type(model.neuron_config) is type(model).get_neuron_config_cls()
    assert type(model.config) is type(model).get_config_cls()
    assert model.on_device_sampling is True
    assert model.context_encoding_model and model.token_generation_model
    model.compile(f"{tmp_path}/traced/", debug=False)
    saved = json.loads((tmp_path / "traced" / "neuron_config.json").read_text())
    assert saved["neuron_config"]["fused_qkv"] is True
    model.load(f"{tmp_path}/traced/")
    model.reset()


@pytest.mark.parametrize("name", ["model.qwen", "model.qwen_with_nki"])
@pytest.mark.parametrize("double_release", ["2.27", "2.29"])
def test_importing_changes_nothing(name, double_release, tmp_path):
    script = tmp_path / "imports.py"
    script.write_text(IMPORT_SCRIPT)
    arguments = [str(ROOT), str(ROOT / "tests" / "model"), double_release, STOCK, name]
    result = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "" and result.stderr == ""


IMPORT_SCRIPT = """
import builtins, logging, os, signal, sys, warnings
root, tests, release, stock_name, name = sys.argv[1:]
sys.dont_write_bytecode = True
sys.path[:0] = [root, tests]
import importlib, numpy, random, torch, transformers
import nxdi_double

def forbid(event, arguments):
    written = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if event.startswith(("socket.", "subprocess.", "os.system", "os.putenv")) or written:
        raise AssertionError(f"{event}{arguments} while importing")

def state():
    classes = [c for n, m in sorted(sys.modules.items()) if n.startswith("neuronx_distributed")
               for c in vars(m).values() if isinstance(c, type)]
    return {
        "environment": dict(os.environ),
        "classes": {c: dict(vars(c)) for c in classes},
        "random": (torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[2]),
        "torch": (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()),
        "logging": (logging.root.handlers[:], logging.root.level),
        "warnings": warnings.filters[:],
        "builtins": dict(vars(builtins)), "path": sys.path[:], "meta": sys.meta_path[:],
        "signals": signal.getsignal(signal.SIGINT),
    }

with nxdi_double.installed(release):
    for needed in (stock_name, "neuronx_distributed.modules.moe.model", "model.layers"):
        importlib.import_module(needed)
    before = state()
    sys.addaudithook(forbid)
    importlib.import_module(name)
    after = state()
    for part in before:
        if part == "classes":
            for cls, attributes in before[part].items():
                assert dict(vars(cls)) == attributes, cls
        else:
            assert before[part] == after[part], part
    assert "nki" not in sys.modules, "a kernel was loaded"
"""


def class_contents(*modules: str) -> dict[type, dict[str, Any]]:
    found = [importlib.import_module(name) for name in modules]
    classes = [c for module in found for c in vars(module).values() if isinstance(c, type)]
    return {cls: dict(vars(cls)) for cls in classes}


def test_a_stock_model_beside_ours_stays_stock(newest, checkpoint):
    names = (
        STOCK,
        "neuronx_distributed.modules.moe.routing",
        "neuronx_distributed.modules.moe.expert_mlps_v2",
        "neuronx_distributed_inference.modules.attention.attention_base",
    )
    before = class_contents(*names)
    logits(on_cpu(checkpoint), PROMPT, 7)
    assert class_contents(*names) == before
    stock = importlib.import_module(STOCK)
    settings = stock.Qwen3MoeInferenceConfig.get_neuron_config_cls()(torch_dtype=torch.float32)
    config = stock.Qwen3MoeInferenceConfig(settings, load_config=load_config({}))
    network = stock.NeuronQwen3MoeModel(config)
    with dispatch.counting() as launched, torch.inference_mode():
        network(PROMPT[None])
    assert launched == {}
    assert type(network.layers[0]) is stock.NeuronQwen3MoeDecoderLayer


# The configuration -----------------------------------------------------------------------------


def neuron_config(**settings: Any) -> Any:
    module = importlib.import_module("model.qwen_with_nki")
    return module.NeuronQwen3MoeForCausalLM.get_neuron_config_cls()(**settings)


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NXD_CPU_MODE")


@pytest.mark.parametrize("given", [{}, {"async_mode": False, "fused_qkv": False}])
def test_what_the_driver_cannot_have_asked_for_is_the_default(release, on_device, given):
    config = neuron_config(enable_bucketing=True, **given)
    assert (config.async_mode, config.fused_qkv, config.output_logits) == (True, True, True)
    sampling = config.on_device_sampling_config
    assert (sampling.do_sample, sampling.top_k, sampling.dynamic) == (False, 1, False)
    assert config.enable_bucketing is True and config.attn_kernel_enabled is None


def test_a_sampling_configuration_is_kept(newest, on_device):
    config = neuron_config(on_device_sampling_config={"top_k": 20, "do_sample": True})
    assert config.on_device_sampling_config.top_k == 20


def test_defaults_can_be_declined(newest, on_device):
    config = neuron_config(nki_defaults=False)
    assert (config.async_mode, config.fused_qkv, config.output_logits) == (False, False, False)
    assert config.on_device_sampling_config is None
    again = neuron_config(nki_defaults=config.nki_defaults, fused_qkv=True)
    assert again.fused_qkv is True and again.async_mode is False


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_on_the_cpu_nothing_is_asked_that_only_a_device_can_do(newest, monkeypatch, how):
    if how == "argument":
        monkeypatch.delenv("NXD_CPU_MODE")
    config = neuron_config(on_cpu=how == "argument", async_mode=True, enable_bucketing=True)
    assert config.async_mode is False and config.enable_bucketing is False
    assert config.attn_kernel_enabled is False and config.moe_fused_nki_kernel_enabled is False


def test_nxdis_configuration_class_keeps_its_defaults(newest, on_device):
    neuron_config()
    stock = importlib.import_module("model.qwen").NeuronQwen3MoeForCausalLM
    theirs = stock.get_neuron_config_cls()()
    assert (theirs.async_mode, theirs.fused_qkv, theirs.output_logits) == (False, False, False)
    assert theirs.on_device_sampling_config is None


def test_a_configuration_for_a_device_is_refused_by_the_cpu_path(newest, on_device, checkpoint):
    with pytest.raises(ValueError, match="on_cpu=True"):
        build(checkpoint).to_cpu()


@pytest.mark.parametrize("nki", ["none", "of the SDK"])
def test_on_a_cpu_without_a_simulator_the_model_is_nxdis(
    release, checkpoint, reference, monkeypatch, nki
):
    """With the reason; and with a simulator it is not, whose ever it is."""
    monkeypatch.delenv("NKI_SIMULATOR", raising=False)
    sdk = None if nki == "none" else ModuleType("nki")
    monkeypatch.setitem(sys.modules, "nki", sdk)
    model = nxdi_models.on_cpu(checkpoint)
    with dispatch.counting() as launched:
        actual = logits(model, PROMPT, 7)
    assert drift(actual, reference_logits(reference, PROMPT, 7)) < FLOAT32_DRIFT
    assert launched == {} and type(model.model.layers[0]).__module__ == STOCK
    because = model.config.nki_stock_because
    assert ("no `nki`" if sdk is None else "NKI_SIMULATOR=1") in because
    assert [(w.kernel, w.phase) for w in model.why_not() if w.reason == because] == [
        (path, phase) for path in ("layered", "rows") for phase in neuron_hooks.PHASES
    ]
    if sdk is not None:
        monkeypatch.setenv("NKI_SIMULATOR", "1")
        assert build(checkpoint).config.nki_stock_because is None


def test_a_device_without_nki_is_no_case_for_nxdis_model(newest, checkpoint, monkeypatch):
    """There the missing package is an error, when a kernel is traced."""
    monkeypatch.delenv("NXD_CPU_MODE")
    monkeypatch.setitem(sys.modules, "nki", None)
    assert build(checkpoint).config.nki_stock_because is None


# The forward pass ------------------------------------------------------------------------------


@pytest.mark.parametrize("fused_qkv", [True, False])
def test_float32_logits_are_transformers(release, checkpoint, reference, fused_qkv):
    model = on_cpu(checkpoint, {"nki_defaults": False, "fused_qkv": fused_qkv})
    expected = reference_logits(reference, PROMPT, 7)
    assert drift(logits(model, PROMPT, 7), expected) < FLOAT32_DRIFT
    assert dispatch.fallbacks() == []


def test_bfloat16_logits_are_near_transformers(newest, checkpoint):
    model = on_cpu(checkpoint, {"torch_dtype": torch.bfloat16})
    expected = reference_logits(baseline.load(checkpoint, "bfloat16"), PROMPT, 7)
    assert drift(logits(model, PROMPT, 7), expected) < BFLOAT16_DRIFT
    assert dispatch.fallbacks() == []


@pytest.mark.parametrize("index", [0, 1])
def test_a_layer_is_transformers_layer(release, checkpoint, reference, index):
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            if isinstance(output, tuple):
                residual = output[4]
                output = output[0] if residual is None else output[0] + residual
            outputs[name] = output

        return hook

    model = on_cpu(checkpoint)
    handles = [
        model.model.layers[index].register_forward_hook(keep("ours")),
        reference.network.model.layers[index].register_forward_hook(keep("theirs")),
    ]
    logits(model, PROMPT, 7)
    reference_logits(reference, PROMPT, 7)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(outputs["ours"], outputs["theirs"], rtol=1e-5, atol=1e-5)


def test_a_padding_mask_reaches_the_experts(newest, checkpoint):
    layer = on_cpu(checkpoint).model.layers[-1]
    seen = []
    layer.mlp.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs)))
    x, positions = torch.randn(1, 5, tiny.HIDDEN), torch.arange(5)[None]
    mask = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    for padding_mask in (None, torch.ones(1, 5)):
        with torch.inference_mode():
            _, _, cos, sin, residual = layer(x, mask, positions, None, padding_mask, residual=x)
    assert seen == [1, 2]
    assert residual is None and (cos[0, 0] == 1).all() and (sin[0, 0] == 0).all()


def by_function(launches: dict[str, int]) -> Counter[str]:
    return Counter({SPECS[name].function: count for name, count in launches.items()})


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_launches_are_the_architectures(release, checkpoint, phase):
    model = on_cpu(checkpoint)
    expected = expected_launches(tiny.CONFIG, phase, "rows", final_norm_fused=False)
    with torch.inference_mode():
        if phase == "decode":
            model.model(PROMPT[None])
        with nki_sim.record() as recording, dispatch.counting() as launched:
            if phase == "prefill":
                model.model(PROMPT[None])
            else:
                model.model(torch.tensor([[7]]), len(PROMPT))
    assert dict(launched) == expected
    assert Counter(launch.kernel for launch in recording.launches) == by_function(expected)
    assert {w.reason for w in model.why_not()} == {FINAL_NORM, ROWS}
    assert {w.kernel for w in model.why_not()} == {"add_rmsnorm", "layered"}


def test_weights_that_are_placeholders_reach_kernels_as_plain_tensors(newest):
    class Placeholder(torch.Tensor):
        pass

    x = torch.randn(4, 16).as_subclass(Placeholder)
    with dispatch.counting() as launched:
        result = dispatch.run("silu", x)
    assert launched == {"silu": 1} and type(result) is torch.Tensor


# Where a kernel does not stand, NxDI's own does, and the reason is kept --------------------------


def test_flash_attention_and_blocks_of_experts_stay_nxdis(newest, on_device, checkpoint, reference):
    prompt = torch.arange(300, 556)  # 256 tokens: NxDI's flash kernel, and more rows than a block
    settings = {"nki_defaults": False, "seq_len": 320}
    model = on_cpu(checkpoint, settings)
    with dispatch.counting() as launched:
        actual = logits(model, prompt, 7)
    assert drift(actual, reference_logits(reference, prompt, 7)) < FLOAT32_DRIFT
    assert reasons("softmax", "CTE") == ["NxDI attends with its flash kernel (SHARDED_KERNEL)"]
    blocks = "NxDI's blocks of one expert each would launch once per block"
    assert reasons("silu", "CTE") == reasons("expert_aggregation", "CTE") == [blocks]
    assert reasons("softmax", "TKG") == reasons("silu", "TKG") == []
    assert launched["softmax"] == launched["silu"] == tiny.CONFIG["num_hidden_layers"]
    [silu] = [w for w in model.why_not() if w.kernel == "silu"]
    assert silu.layers == (0, 1)


def test_a_short_flash_free_prefill_says_nothing_of_flash(newest, on_device, checkpoint):
    logits(on_cpu(checkpoint, {"nki_defaults": False}), PROMPT, 7)
    assert reasons("softmax", "CTE") == []


@pytest.mark.parametrize("cores", [1, 2])
def test_a_launch_without_a_grid_is_said_where_the_api_wants_one(
    newest, on_device, checkpoint, cores
):
    model = on_cpu(checkpoint, {"nki_defaults": False, "logical_nc_config": cores})
    found = reasons(neuron_hooks.LAUNCH_GRID, "TKG")
    assert len(found) == cores - 1
    if found:
        assert "kernel[2]" in found[0] and "program_id" in found[0]
    assert [w.layers for w in model.why_not()] == [()] * (4 + 2 * len(found))


def test_a_layers_boundary_is_marked_with_the_residual(newest, on_device, checkpoint):
    marker = importlib.import_module("neuronx_distributed_inference.models.layer_boundary_marker")
    model = on_cpu(checkpoint, {"nki_defaults": False})
    with torch.inference_mode():
        model.model(PROMPT[None])
    assert marker.MARKED == [("start", 1), ("end", 2), ("start", 2), ("end", 1)]


def test_a_release_that_hands_on_no_residual_is_refused_with_a_remedy(
    newest, checkpoint, reference
):
    x, positions = torch.randn(1, 5, tiny.HIDDEN), torch.arange(5)[None]
    mask = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    with pytest.raises(RuntimeError, match=r"layer 1: .*nki_fuse_residual=False"):
        on_cpu(checkpoint).model.layers[1](x, mask, positions)
    model = on_cpu(checkpoint, {"nki_fuse_residual": False})
    model.model.layers[1](x, mask, positions)
    assert drift(logits(model, PROMPT, 7), reference_logits(reference, PROMPT, 7)) < FLOAT32_DRIFT
    assert "nki_fuse_residual is off" in reasons("add_rmsnorm", "TKG")


@pytest.mark.parametrize(
    "switch", ["layer_boundary_markers", "enable_fused_speculation", "qkv_kernel_enabled"]
)
def test_layers_that_cannot_fuse_the_residual_run_nxdis_forward(
    release, checkpoint, reference, switch
):
    model = on_cpu(checkpoint, {switch: True})
    with dispatch.counting() as launched:
        actual = logits(model, PROMPT, 7)
    assert drift(actual, reference_logits(reference, PROMPT, 7)) < FLOAT32_DRIFT
    assert launched["add_rmsnorm"] == 0
    assert launched["rmsnorm"] == 2 * (4 * tiny.CONFIG["num_hidden_layers"] + 1)
    assert any(reason.startswith(f"{switch} is on") for reason in reasons("add_rmsnorm", "TKG"))


@pytest.mark.parametrize(
    ("switch", "kernel", "phase"),
    [
        ("attn_block_tkg_nki_kernel_enabled", "softmax", "TKG"),
        ("qkv_cte_nki_kernel_fuse_rope", "rope", "CTE"),
        ("flash_decoding_enabled", "softmax", "TKG"),
    ],
)
def test_settings_that_take_a_hooks_work_are_named(newest, checkpoint, switch, kernel, phase):
    model = on_cpu(checkpoint, {switch: True})
    [found] = [w for w in model.why_not() if switch in w.reason and w.kernel == kernel]
    assert (found.phase, found.layers) == (phase, (0, 1))


def test_nxdis_fused_experts_keep_their_norm(newest, on_device, checkpoint, reference):
    settings = {"nki_defaults": False, "moe_fused_nki_kernel_enabled": True}
    model = on_cpu(checkpoint, settings)
    with dispatch.counting() as launched:
        actual = logits(model, PROMPT, 7)
    assert drift(actual, reference_logits(reference, PROMPT, 7)) < FLOAT32_DRIFT
    assert not set(launched) & {"add_rmsnorm", *neuron_hooks.MOE_KERNELS}
    assert reasons("top8", "TKG") == [neuron_hooks.FUSED_MOE]


def test_four_experts_per_token_are_routed_by_nxdi(newest, checkpoint, tmp_path):
    path = changed_checkpoint(checkpoint, tmp_path / "four", num_experts_per_tok=4)
    model = on_cpu(path, num_experts_per_tok=4)
    with dispatch.counting() as launched:
        actual = logits(model, PROMPT, 7)
    expected = reference_logits(baseline.load(path, "float32"), PROMPT, 7)
    assert drift(actual, expected) < FLOAT32_DRIFT
    assert not set(launched) & set(neuron_hooks.MOE_KERNELS)
    for kernel in neuron_hooks.MOE_KERNELS:
        assert reasons(kernel, "TKG") == ["4 experts per token, the kernel has 8"]


def test_experts_with_another_activation_are_nxdis(newest, checkpoint, tmp_path):
    path = changed_checkpoint(checkpoint, tmp_path / "gelu", hidden_act="gelu")
    model = on_cpu(path, hidden_act="gelu")
    expected = reference_logits(baseline.load(path, "float32"), PROMPT, 7)
    assert drift(logits(model, PROMPT, 7), expected) < FLOAT32_DRIFT
    assert reasons("silu", "CTE") == ["the experts are no plain SwiGLU"]


def test_a_module_of_another_class_is_left_alone(newest, checkpoint, reference, monkeypatch):
    module: ModuleType = importlib.import_module("neuronx_distributed_inference.modules.moe_v2")

    class NewRouter(module.RouterTopK):
        pass

    monkeypatch.setattr(module, "RouterTopK", NewRouter)
    model = on_cpu(checkpoint)
    assert drift(logits(model, PROMPT, 7), reference_logits(reference, PROMPT, 7)) < FLOAT32_DRIFT
    assert reasons("top8", "TKG") == ["this release builds a NewRouter there"]


def test_a_step_with_a_mask_among_its_tokens_is_nxdis(newest, checkpoint):
    attention = on_cpu(checkpoint).model.layers[0].self_attn
    query, key = torch.randn(1, 8, 1, 16), torch.randn(1, 4, 1, 16)
    cache = (torch.randn(1, 4, CAPACITY, 16), torch.randn(1, 4, CAPACITY, 16))
    mask = torch.arange(CAPACITY)[None, None, None] < 9
    arguments = (query, key, key, None, cache, mask, None)
    with dispatch.counting() as launched:
        stock = attention.compute_for_token_gen(*arguments, is_prefix_caching=True)
    assert launched == {} and "a mask among them" in reasons("softmax", "TKG")[0]
    with dispatch.counting() as launched:
        ours = attention.compute_for_token_gen(*arguments)
    assert launched == {"softmax": 1}
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-5)


def test_rope_tables_of_a_foreign_dtype_are_nxdis(newest, checkpoint):
    attention = on_cpu(checkpoint).model.layers[1].self_attn
    query, key = torch.randn(1, 8, 3, 16), torch.randn(1, 4, 3, 16)
    tables = [torch.randn(1, 3, 16).half() for _ in range(2)]
    with dispatch.counting() as launched:
        attention.apply_rotary_embedding(query, key, key, None, *tables, False)
    assert launched == {}
    [found] = [w for w in neuron_hooks.why_not() if w.kernel == "rope"]
    assert found.layers == (1,) and "float16" in found.reason


def test_reasons_are_kept_once_with_all_their_layers(caplog):
    for layer in (3, 1, 3):
        neuron_hooks.record("rope", "CTE", "a reason", layer)
    neuron_hooks.record("rope", "TKG", "a reason", 0)
    assert neuron_hooks.why_not() == [
        ("rope", "CTE", "a reason", (1, 3)),
        ("rope", "TKG", "a reason", (0,)),
    ]
    assert len(caplog.records) == 2
    neuron_hooks.forget()
    assert neuron_hooks.why_not() == []


# The weights -----------------------------------------------------------------------------------


def hugging_face_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    loaded = load_file(checkpoint / "model.safetensors")
    return {name.removeprefix("model."): tensor for name, tensor in loaded.items()}


def restored(state: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """Back to Hugging Face's names; `width` is the width of an expert without padding."""
    result = {}
    for name, tensor in state.items():
        prefix, _, rest = name.partition("mlp.expert_mlps.mlp_op.")
        if name.endswith("rank_util.rank"):
            continue
        if name.endswith("Wqkv.weight"):
            key = tiny.KV_HEADS * tiny.HEAD_DIM
            for part, rows in zip(
                "qkv", tensor.split([len(tensor) - 2 * key, key, key]), strict=True
            ):
                result[name.replace("Wqkv", f"{part}_proj")] = rows
        elif rest:
            halves = tensor.chunk(2, dim=2) if "gate_up" in rest else (tensor,)
            parts = ("gate_proj", "up_proj") if "gate_up" in rest else ("down_proj",)
            for part, stack in zip(parts, halves, strict=True):
                kept = stack[:, :width] if part == "down_proj" else stack[:, :, :width]
                for expert, weight in enumerate(kept):
                    result[f"{prefix}mlp.experts.{expert}.{part}.weight"] = weight.T
        else:
            renamed = name.replace("_layernorm.weight", "_norm.weight")
            name = renamed if "self_attn" in name else name
            result[name.replace("mlp.router.linear_router", "mlp.gate")] = tensor
    return result


@pytest.mark.parametrize("padding", [0, 16])
@pytest.mark.parametrize("fused_qkv", [True, False])
def test_conversion_loses_nothing(newest, checkpoint, fused_qkv, padding):
    config = build(checkpoint, {"nki_defaults": False, "fused_qkv": fused_qkv}).config
    config.moe_intermediate_pad_size = padding
    config.neuron_config.tp_degree = 4
    original, state = hugging_face_state(checkpoint), hugging_face_state(checkpoint)
    converted = neuron_state.convert(state, config)
    assert state == {}
    gate_up = converted["layers.1.mlp.expert_mlps.mlp_op.gate_up_proj.weight"]
    width = tiny.EXPERT_WIDTH
    assert gate_up.shape == (tiny.EXPERTS, tiny.HIDDEN, 2 * (width + padding))
    assert (gate_up[:, :, width : width + padding] == 0).all()
    for name in ("rank_util.rank", "layers.0.self_attn.rank_util.rank"):
        assert converted[name].tolist() == [0, 1, 2, 3] and converted[name].dtype == torch.int32
    back = restored(converted, width)
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], original[name]) for name in original)


@pytest.mark.parametrize(
    "name",
    ["norm.weight", "layers.1.self_attn.q_norm.weight", "layers.0.mlp.experts.5.up_proj.weight"],
)
def test_a_missing_tensor_is_refused(newest, checkpoint, name):
    state = hugging_face_state(checkpoint)
    del state[name]
    with pytest.raises(neuron_state.WrongCheckpoint, match=f"1 missing .{name}"):
        neuron_state.convert(state, build(checkpoint).config)


def test_an_unknown_tensor_is_refused(newest, checkpoint):
    state = hugging_face_state(checkpoint) | {"layers.0.self_attn.q_proj.bias": torch.zeros(1)}
    with pytest.raises(
        neuron_state.WrongCheckpoint, match=r"1 unknown \(layers.0.self_attn.q_proj.bias\)"
    ):
        neuron_state.convert(state, build(checkpoint).config)


def test_tied_embeddings_need_no_head(newest, checkpoint):
    state = hugging_face_state(checkpoint)
    del state["lm_head.weight"]
    config = build(checkpoint, changes={"tie_word_embeddings": True}).config
    assert "lm_head.weight" not in neuron_state.convert(state, config)


def test_block_scales_are_multiplied_in(newest, checkpoint):
    config = build(
        checkpoint, changes={"quantization_config": {"weight_block_size": [32, 48]}}
    ).config
    weight = torch.randn(40, 50).to(torch.float8_e4m3fn)
    scale = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    state = {"a.weight": weight, "a.weight_scale_inv": scale}
    neuron_state.dequantise(state, config)
    assert list(state) == ["a.weight"] and state["a.weight"].dtype == torch.float32
    assert torch.equal(state["a.weight"][33, 1], weight[33, 1].float() * 4.0)
    assert torch.equal(state["a.weight"][0, 49], weight[0, 49].float() * 2.0)


@pytest.mark.parametrize("name", ["norm.weight", "layers.0.self_attn.k_layernorm.weight"])
def test_a_parameter_without_a_value_is_an_error_though_nxdi_is_not_strict(
    newest, checkpoint, monkeypatch, name
):
    convert = neuron_state.convert

    def forgetful(state: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
        return {key: tensor for key, tensor in convert(state, config).items() if key != name}

    monkeypatch.setattr(neuron_state, "convert", forgetful)
    with pytest.raises(neuron_state.WrongCheckpoint, match=name):
        on_cpu(checkpoint)


def test_the_cache_alone_may_be_missing():
    neuron_state.check_only_cache_missing(["kv_mgr.past_key_values.0"])
    with pytest.raises(neuron_state.WrongCheckpoint, match=r"1 missing \(lm_head.weight\)"):
        neuron_state.check_only_cache_missing(["kv_mgr.past_key_values.0", "lm_head.weight"])
