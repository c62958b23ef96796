"""NxD Inference's model of packed layers, on the double: logits, launches, ranks, weights."""

from __future__ import annotations

import copy
import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nki.collectives as ncc
import nxdi_double
import pytest
import torch
from nxdi_models import build, changed_checkpoint, drift, logits, on_cpu, reference_logits
from safetensors.torch import load_file

import nki_sim
from kernels.specs import SPECS
from model import (
    baseline,
    dispatch,
    neuron_hooks,
    neuron_packing,
    neuron_plan,
    neuron_state,
    packing,
    tiny,
)
from model.packing import Packed, Shard
from model.plan import NEURON_PATHS, expected_launches

PROMPT = torch.arange(100, 120)
FLOAT32_DRIFT = 5e-5  # as in test_qwen_nxdi.py
BFLOAT16_DRIFT = 1.0
BUCKET = 32
CONFIG = SimpleNamespace(**tiny.CONFIG)


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


# The forward pass ------------------------------------------------------------------------------


def test_float32_logits_are_transformers(release, checkpoint, reference):
    model = on_cpu(checkpoint)
    expected = reference_logits(reference, PROMPT, 7)
    assert drift(logits(model, PROMPT, 7), expected) < FLOAT32_DRIFT
    assert model.why_not() == [] and dispatch.fallbacks() == []


def test_bfloat16_logits_are_near_transformers(newest, checkpoint):
    model = on_cpu(checkpoint, {"torch_dtype": torch.bfloat16})
    expected = reference_logits(baseline.load(checkpoint, "bfloat16"), PROMPT, 7)
    assert drift(logits(model, PROMPT, 7), expected) < BFLOAT16_DRIFT
    assert model.why_not() == []


@pytest.mark.parametrize(
    "settings",
    [
        {"nki_defaults": False},  # keys as positions x D, and the host samples
        {"nki_fuse_residual": False},
        {"rpl_reduce_dtype": torch.float32},
    ],
)
def test_other_configurations_compute_the_same(newest, checkpoint, reference, settings):
    model = on_cpu(checkpoint, settings)
    assert drift(logits(model, PROMPT, 7), reference_logits(reference, PROMPT, 7)) < FLOAT32_DRIFT
    assert model.why_not() == []


def test_a_prompt_padded_to_a_bucket_is_the_same(newest, checkpoint, reference):
    """Padding goes to no expert, and what it leaves in the cache is not seen."""
    model = on_cpu(checkpoint)
    with torch.inference_mode():
        first = model.model(PROMPT[None], 0, BUCKET)[0]
        second = model.model(torch.tensor([[7]]), len(PROMPT))[0]
    assert drift((first, second), reference_logits(reference, PROMPT, 7)) < FLOAT32_DRIFT


def by_function(launches: dict[str, int]) -> Counter[str]:
    return Counter({SPECS[name].function: count for name, count in launches.items()})


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_launches_are_the_architectures(release, checkpoint, phase):
    model = on_cpu(checkpoint)
    expected = expected_launches(tiny.CONFIG, phase, "layered")
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


@pytest.mark.parametrize("cores", [1, 2])
def test_kernels_are_launched_on_the_cores_of_a_rank(
    newest, checkpoint, reference, monkeypatch, cores
):
    monkeypatch.delenv("NXD_CPU_MODE")
    grids = set()
    launch = dispatch.launch

    def watched(name: str, *tensors: Any, cores: int | None = None, **scalars: Any) -> Any:
        grids.add(cores)
        return launch(name, *tensors, cores=cores, **scalars)

    monkeypatch.setattr(dispatch, "launch", watched)
    model = on_cpu(checkpoint, {"nki_defaults": False, "logical_nc_config": cores})
    assert drift(logits(model, PROMPT, 7), reference_logits(reference, PROMPT, 7)) < FLOAT32_DRIFT
    assert grids == ({2} if cores == 2 else {None})
    assert model.why_not() == []


def test_a_layers_boundary_is_marked_with_the_residual(newest, checkpoint, monkeypatch):
    monkeypatch.delenv("NXD_CPU_MODE")
    marker = importlib.import_module("neuronx_distributed_inference.models.layer_boundary_marker")
    model = on_cpu(checkpoint, {"nki_defaults": False, "logical_nc_config": 1})
    with torch.inference_mode():
        model.model(PROMPT[None])
    assert marker.MARKED == [("start", 1), ("end", 2), ("start", 2), ("end", 1)]


def test_a_release_that_hands_on_no_residual_is_refused_with_a_remedy(newest, checkpoint):
    layer = on_cpu(checkpoint).model.layers[1]
    x, positions = torch.randn(1, 5, tiny.HIDDEN), torch.arange(5)[None]
    with pytest.raises(RuntimeError, match=r"layer 1: .*nki_fuse_residual=False"):
        layer(x, None, positions)


def test_nothing_of_nxdis_layers_is_built(newest, checkpoint):
    """Their weights would not fit beside ours; nor may ours be missing for a driver."""
    network = on_cpu(checkpoint).model
    names = {name for name, _ in network.named_parameters() if not name.startswith("kv_mgr.")}
    layers = range(tiny.CONFIG["num_hidden_layers"])
    assert names == {"embed_tokens.weight", "rank_util.rank"} | {
        f"layers.{layer}.{block}.{name}"
        for layer in layers
        for block, found in neuron_packing.BLOCKS.items()
        for name in found
    } | {"lm_head.head.final_norm", "lm_head.head.w_head"}


# Ranks -----------------------------------------------------------------------------------------


def ranks_of(checkpoint: Path, count: int) -> list[Any]:
    """The model of each rank, with its part of the checkpoint as NxD shards it."""
    trace = importlib.import_module("neuronx_distributed.trace.trace")
    application = build(checkpoint, {"tp_degree": count})
    found = []
    for rank in range(count):
        model = type(application)._model_cls(application.config)
        state = neuron_packing.convert(hugging_face_state(checkpoint), application.config)
        trace.get_sharded_checkpoint(state, model, rank, count)
        model.load_state_dict(state, strict=False)
        found.append(model.eval())
    return found


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_rank_gets_its_pack(newest, checkpoint, count):
    whole = packing.Checkpoint(checkpoint, torch.float32)
    for rank, model in enumerate(ranks_of(checkpoint, count)):
        packed = packing.pack(whole, CONFIG, Shard(rank, count))
        for index, layer in enumerate(model.layers):
            for block, names in neuron_packing.BLOCKS.items():
                for name in names:
                    ours = getattr(getattr(layer, block), name)
                    assert torch.equal(ours, packed.layer(index)[name]), (index, name)
        assert torch.equal(model.lm_head.head.w_head, packed.w_head)
        assert torch.equal(model.lm_head.head.final_norm, packed.final_norm)


def test_the_shapes_are_those_of_the_packs(checkpoint):
    whole = packing.Checkpoint(checkpoint, torch.float32)
    for ranks in (1, 2, 4):
        packed, found = packing.pack(whole, CONFIG, Shard(0, ranks)), packing.shapes(CONFIG, ranks)
        assert found == {name: tuple(packed.layer(0)[name].shape) for name in packing.LAYER} | {
            name: tuple(getattr(packed, name).shape) for name in ("final_norm", "w_head")
        }


def test_two_ranks_compute_what_one_does(newest, checkpoint, reference, monkeypatch):
    """NxD's sum over the ranks is played by the all-reduce kernel on simulated ranks."""
    layers = importlib.import_module("model.neuron_layers")
    group = ncc.ReplicaGroup([[0, 1]])

    def reduce(partial: torch.Tensor) -> torch.Tensor:
        return dispatch.launch("all_reduce", partial, group=group)

    monkeypatch.setattr(layers, "reduce_from_tensor_model_parallel_region", reduce)
    models = ranks_of(checkpoint, 2)
    with torch.inference_mode():
        first = nki_sim.ranks.run(lambda rank: models[rank](PROMPT[None])[0], ranks=2)
        token = torch.tensor([[7]])
        second = nki_sim.ranks.run(lambda rank: models[rank](token, len(PROMPT))[0], ranks=2)
    actual = torch.cat(list(first)), torch.cat(list(second))
    assert drift(actual, reference_logits(reference, PROMPT, 7)) < FLOAT32_DRIFT


# Weights ---------------------------------------------------------------------------------------


def hugging_face_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    state = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            state[name.removeprefix("model.")] = tensor.float()
    return state


def restored(converted: dict[str, torch.Tensor], ranks: int) -> dict[str, torch.Tensor]:
    """The Hugging Face tensors of a converted checkpoint."""
    layers = range(tiny.CONFIG["num_hidden_layers"])
    places = {name: block for block, names in neuron_packing.BLOCKS.items() for name in names}

    def part(name: str, full: str, rank: int) -> torch.Tensor:
        tensor = converted[full]
        return tensor if name in packing.SHARED else tensor.chunk(ranks)[rank]

    parts = [
        Packed(
            **{
                name: torch.stack([part(name, f"layers.{i}.{block}.{name}", rank) for i in layers])
                for name, block in places.items()
            },
            final_norm=converted["lm_head.head.final_norm"],
            w_head=part("w_head", "lm_head.head.w_head", rank),
            embedding=converted["embed_tokens.weight"],
        )
        for rank in range(ranks)
    ]
    return {name.removeprefix("model."): t for name, t in packing.unpack(parts, CONFIG).items()}


@pytest.mark.parametrize("ranks", [1, 4])
def test_conversion_loses_nothing(newest, checkpoint, ranks):
    config = build(checkpoint, {"tp_degree": ranks}).config
    original, state = hugging_face_state(checkpoint), hugging_face_state(checkpoint)
    converted = neuron_packing.convert(state, config)
    assert state == {}
    assert converted["rank_util.rank"].tolist() == list(range(ranks))
    back = restored(converted, ranks)
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], original[name]) for name in original)


@pytest.mark.parametrize("name", ["norm.weight", "layers.0.mlp.experts.5.up_proj.weight"])
def test_a_missing_tensor_is_refused(newest, checkpoint, name):
    state = hugging_face_state(checkpoint)
    del state[name]
    with pytest.raises(neuron_state.WrongCheckpoint, match=f"1 missing .{name}"):
        neuron_packing.convert(state, build(checkpoint).config)


def test_an_unknown_tensor_is_refused(newest, checkpoint):
    state = hugging_face_state(checkpoint) | {"layers.0.self_attn.q_proj.bias": torch.zeros(1)}
    with pytest.raises(neuron_state.WrongCheckpoint, match="1 unknown"):
        neuron_packing.convert(state, build(checkpoint).config)


@pytest.mark.parametrize("name", ["lm_head.head.final_norm", "layers.1.experts.w_down"])
def test_a_parameter_without_a_value_is_an_error(newest, checkpoint, monkeypatch, name):
    convert = neuron_packing.convert

    def forgetful(state: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
        return {key: tensor for key, tensor in convert(state, config).items() if key != name}

    monkeypatch.setattr(neuron_packing, "convert", forgetful)
    with pytest.raises(neuron_state.WrongCheckpoint, match=name):
        on_cpu(checkpoint)


# Where the layers cannot stand -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "changes", "reason"),
    [
        ({"nki_kernel_path": "rows"}, {}, "nki_kernel_path is 'rows'"),
        ({"batch_size": 2}, {}, "batch_size is 2, the layers take 1"),
        ({"padding_side": "left"}, {}, "padding_side is 'left'"),
        ({"moe_ep_degree": 2}, {}, "moe_ep_degree is 2"),
        ({"sequence_parallel_enabled": True}, {}, "sequence_parallel_enabled is True"),
        ({"layer_boundary_markers": True}, {}, "layer_boundary_markers is True"),
        ({"enable_fused_speculation": True}, {}, "enable_fused_speculation is True"),
        ({"qkv_kernel_enabled": True}, {}, "qkv_kernel_enabled is True"),
        ({"tp_degree": 3}, {}, "num_attention_heads 8 is no multiple of 3 ranks"),
        ({"torch_dtype": torch.float16}, {}, "float16 is not among the kernel's dtypes"),
        ({"seq_len": 331}, {}, "attention_decode: a cache of 331 tokens"),
        ({"seq_len": 2688}, {}, "a prompt of 2688 tokens, the kernel takes up to 2560"),
        ({"context_encoding_buckets": [128, 4096]}, {}, "a prompt of 4096 tokens"),
        ({}, {"num_experts_per_tok": 4}, "router_prefill: 4 experts per token"),
        ({}, {"hidden_act": "gelu"}, "hidden_act: received 'gelu'"),
        ({}, {"tie_word_embeddings": True}, "tie_word_embeddings: received True"),
        ({}, {"norm_topk_prob": False}, "does not renormalise"),
    ],
)
def test_what_rules_the_layers_out_has_a_reason(newest, checkpoint, settings, changes, reason):
    config = build(checkpoint, settings, changes).config
    assert any(reason in found for found in config.nki_rows_because), config.nki_rows_because
    assert config.neuron_config.k_cache_transposed is False


def test_long_sequences_need_no_long_prompts(newest, checkpoint):
    settings = {"seq_len": 4096, "context_encoding_buckets": [128, 1024]}
    assert build(checkpoint, settings).config.nki_rows_because == []


def test_the_path_does_not_change_with_a_graphs_settings(newest, checkpoint):
    """NxDI switches sequence parallelism off for decoding alone; the weights are the same."""
    application = build(checkpoint, {"sequence_parallel_enabled": True})
    graph = copy.deepcopy(application.config)
    graph.neuron_config.sequence_parallel_enabled = False
    assert graph.nki_rows_because
    stock_names = type(application)._model_cls(graph).state_dict().keys()
    assert any("expert_mlps" in name for name in stock_names)


def test_the_settings_are_those_of_the_sdk(newest, checkpoint):
    """A misspelt setting would rule nothing out: those that the double knows are found there."""
    known = vars(build(checkpoint).config.neuron_config)
    assert {"sequence_parallel_enabled", "qkv_kernel_enabled", "is_prefix_caching"} <= set(known)
    unheard = {name for name in (*neuron_plan.OFF, *neuron_plan.NEEDED) if name not in known}
    assert {"batch_size", "padding_side", "moe_ep_degree"}.isdisjoint(unheard)


def test_an_unknown_path_is_refused(newest, checkpoint):
    with pytest.raises(ValueError, match="'quick'; use one of layered, rows"):
        build(checkpoint, {"nki_kernel_path": "quick"})


def test_the_fallback_runs_in_nxdis_modules_and_says_so(newest, checkpoint, tmp_path):
    path = changed_checkpoint(checkpoint, tmp_path / "four", num_experts_per_tok=4)
    model = on_cpu(path, num_experts_per_tok=4)
    expected = reference_logits(baseline.load(path, "float32"), PROMPT, 7)
    with dispatch.counting() as launched:
        assert drift(logits(model, PROMPT, 7), expected) < FLOAT32_DRIFT
    assert launched["rmsnorm"] and not launched["qkv_decode"]
    against = [w for w in model.why_not() if w.kernel == NEURON_PATHS[0]]
    assert {w.phase for w in against} == set(neuron_hooks.PHASES)
    assert any("4 experts per token" in w.reason for w in against)
