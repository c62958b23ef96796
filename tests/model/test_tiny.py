"""The tiny checkpoint: its bytes, its files as transformers sees them, and its margins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

from model import baseline, tiny

ROOT = Path(__file__).resolve().parents[2]
WINDOW = 640  # tokens of prompt and answer together in the challenge
FIELDS_OF_QWEN3_30B_A3B = {
    "architectures",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "decoder_sparse_step",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_only_layers",
    "model_type",
    "moe_intermediate_size",
    "norm_topk_prob",
    "num_attention_heads",
    "num_experts",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "output_router_logits",
    "rms_norm_eps",
    "rope_scaling",
    "rope_theta",
    "router_aux_loss_coef",
    "sliding_window",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_sliding_window",
    "vocab_size",
}


def prompts(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").strip().split("\n\n")


def encode(tokenizer, text: str) -> torch.Tensor:
    return torch.tensor(tokenizer(text)["input_ids"])


def test_two_processes_in_two_folders_write_the_same_bytes(checkpoint, tmp_path):
    program = "import sys, pathlib, model.tiny as t; t.write_tiny_checkpoint(pathlib.Path('out'))"
    written = {}
    for name, hash_seed, threads in (("one", "1", "1"), ("two", "2", "2")):
        folder = tmp_path / name
        folder.mkdir()
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": hash_seed,
            "OMP_NUM_THREADS": threads,
        }
        subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)
        written[name] = {p.name: p.read_bytes() for p in (folder / "out").iterdir()}
    assert written["one"] == written["two"]
    assert written["one"] == {path.name: path.read_bytes() for path in checkpoint.iterdir()}


def test_another_seed_gives_other_weights_and_the_same_tokenizer(checkpoint, tmp_path):
    tiny.write_tiny_checkpoint(tmp_path, seed=1)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    same = {name for name, data in written.items() if data == (checkpoint / name).read_bytes()}
    assert same == {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_config_has_exactly_the_fields_of_the_real_one(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    assert set(config) == FIELDS_OF_QWEN3_30B_A3B
    assert config["moe_intermediate_size"] % 128 != 0
    assert config["num_experts_per_tok"] == 8 < config["num_experts"]


def test_transformers_loads_every_part(checkpoint):
    assert isinstance(AutoConfig.from_pretrained(checkpoint), Qwen3MoeConfig)
    _, report = Qwen3MoeForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(report.values()), report
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert len(tokenizer) == tiny.CONFIG["vocab_size"]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (tiny.PAD_ID, tiny.EOS_ID)


def test_norm_weights_are_not_trivial(reference):
    norms = {n: p for n, p in reference.network.named_parameters() if "norm" in n}
    assert len(norms) == 4 * tiny.CONFIG["num_hidden_layers"] + 1
    assert all(weight.std() > 0.1 for weight in norms.values())


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize(
    "text",
    ["", "  two  spaces\n\n\ttab ", "e\u0301 is not \u00e9", "a<|im_end|>b", "naïve 東京 🙂"],
)
def test_awkward_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_organisers_prompts_fit_the_window(tokenizer):
    path = ROOT.parent / "shared" / "contest" / "prompts.txt"
    if not path.exists():
        pytest.skip("the organisers' prompts.txt is not beside the repository")
    lengths = [len(encode(tokenizer, text)) for text in prompts(path)]
    assert len(lengths) == 5
    assert max(lengths) <= 560


@pytest.fixture(scope="module")
def windows(reference, tokenizer):
    """Greedy generation over the whole window for each of our own prompts."""
    ids = [encode(tokenizer, text) for text in prompts(ROOT / "config" / "prompts.txt")]
    return [(prompt, reference.generate(prompt, WINDOW - len(prompt))) for prompt in ids]


def test_the_greedy_token_never_hinges_on_rounding(windows):
    for _, generation in windows:
        best, second = -np.sort(-generation.logits, axis=1)[:, :2].T
        # Logits of this size carry about 1e-5 of drift in float32 and 0.5 in bfloat16.
        assert (best - second).min() > 3.0
        assert (best - second).min() > 0.1 * best.max()


def test_bfloat16_chooses_the_same_tokens(checkpoint, windows):
    rounded = baseline.load(checkpoint, "bfloat16")
    for prompt, expected in windows[2:4]:
        forced = torch.from_numpy(expected.tokens)
        actual = rounded.generate(prompt, len(forced), forced)
        assert np.mean(actual.tokens == expected.tokens) > 0.995


def test_the_output_is_not_degenerate(windows):
    outputs = [generation.tokens for _, generation in windows]
    assert all(len(set(tokens[:200].tolist())) > 150 for tokens in outputs)
    beginnings = {tuple(tokens[:8].tolist()) for tokens in outputs}
    assert len(beginnings) == len(outputs)
