"""A tiny Qwen3-MoE checkpoint in Hugging Face format, made from a seed, byte for byte the same.

Random weights make a poor test model: somewhere in a few thousand greedy steps two logits or two
router scores lie so close that rounding decides, and then nobody can tell a wrong kernel from a
different order of summation. These weights are dense random matrices to look at, but they carry out
a small program whose every decision is clear by construction:

* The hidden state is a rotated sum of five orthogonal subspaces (`SUBSPACES`). A token is a pair
  (topic, word); its embedding puts the topic's direction into `topic`, one of 16 biorthogonal code
  words into `word`, and the same constant into `one`.
* Attention looks back a fixed distance (`LOOK_BACK`): queries and keys lean on `one` with phases
  that RoPE brings together at exactly that distance. Layer 0 copies the word found there into
  `relay`, layer 1 copies the relay found there into `recall`.
* The experts are random SwiGLUs that read and write `topic` and outweigh the embedding. Of many
  candidate topics those are kept whose routing is clearest in both layers.
* The LM head is fitted last: the row of the successor of (topic, word) points where the layers
  take that topic, and where that word is recalled. The successor's topic depends on the token, its
  word on the tokens before it.

So a token comes out right only if norms, RoPE, the cache, the router and the experts are right,
and the gap to the second best is a large part of the logit. Norm weights are random; every matrix
that reads a norm's output is divided by them. A little noise on all matrices leaves nothing exactly
zero. Weights are stored in bfloat16; the fit runs in float64, so that no summation order shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

Array = NDArray[np.float64]

CORPUS = Path(__file__).with_name("tiny_corpus.txt")
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_end|>")
PAD_ID, EOS_ID = 0, 1

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": PAD_ID,
    "decoder_sparse_step": 1,
    "eos_token_id": EOS_ID,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 192,
    "max_position_embeddings": 40960,
    "max_window_layers": 2,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 48,
    "norm_topk_prob": True,
    "num_attention_heads": 8,
    "num_experts": 16,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.57.6",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 2048,
}
GENERATION_CONFIG = {
    "bos_token_id": PAD_ID,
    "do_sample": False,
    "eos_token_id": EOS_ID,
    "pad_token_id": PAD_ID,
    "transformers_version": "4.57.6",
}

HIDDEN, HEAD_DIM = CONFIG["hidden_size"], CONFIG["head_dim"]
HEADS, KV_HEADS = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
EXPERTS, EXPERT_WIDTH = CONFIG["num_experts"], CONFIG["moe_intermediate_size"]
VOCABULARY, TOP_K = CONFIG["vocab_size"], CONFIG["num_experts_per_tok"]

WORD_DIMS = 8
SUBSPACES = {
    "topic": slice(0, 39),
    "word": slice(39, 47),
    "relay": slice(47, 55),
    "recall": slice(55, 63),
    "one": slice(63, 64),
}
TOPIC_DIMS = SUBSPACES["topic"].stop
WORDS = 2 * WORD_DIMS
TOPICS = VOCABULARY // WORDS
CANDIDATES = 8 * TOPICS

LOOK_BACK = (4, 7)
COPIES = (("word", "relay"), ("relay", "recall"))
# Score that each of RoPE's eight frequencies adds at the distance looked for: the fast ones tell
# it from its neighbours, the slow ones from distances a whole turn away.
FREQUENCY_SCORES = np.array([10.0, 10.0, 8.0, 8.0, 0.5, 0.5, 0.5, 0.5])

NOISE = 0.02
# Per layer, so that what the layers add stays in balance with the embedding.
COPY_GAINS = (0.25, 0.6)
EXPERT_GAINS = (2.5, 1.5)
ROUTER_GAIN = 0.1
TOPIC_LOGIT, WORD_LOGIT = 3.0, 3.0


def write_tiny_checkpoint(directory: Path, seed: int = 0) -> None:
    """Write config.json, generation_config.json, tokenizer files and model.safetensors.

    `directory` is made if it is missing; files of the same names are replaced. The bytes depend on
    `seed` (weights), on this module and on `tiny_corpus.txt` (tokenizer) alone.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16).contiguous()
        for name, value in make_weights(seed).items()
    }
    files = {
        "config.json": _json_bytes(CONFIG),
        "generation_config.json": _json_bytes(GENERATION_CONFIG),
        "tokenizer.json": train_tokenizer().to_str(pretty=True).encode() + b"\n",
        "tokenizer_config.json": _json_bytes(_tokenizer_config()),
        "model.safetensors": save(tensors, metadata={"format": "pt"}),
    }
    for name, data in files.items():
        partial = directory / f".{name}.partial"
        partial.write_bytes(data)
        partial.replace(directory / name)


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE trained on `tiny_corpus.txt`: any text round-trips, nothing is normalised."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS.read_text(encoding="utf-8")], trainer)
    return tokenizer


def make_weights(seed: int) -> dict[str, Array]:
    """All tensors of the checkpoint by their Hugging Face names, rounded to bfloat16 values."""
    rng = np.random.default_rng(seed)
    basis = _orthonormal(rng, HIDDEN, HIDDEN)
    weights: dict[str, Array] = {}
    for layer in range(len(LOOK_BACK)):
        weights |= _attention(rng, basis, layer)
        weights |= _experts(rng, basis, layer)
    weights["model.norm.weight"] = _norm_weight(rng, HIDDEN)
    weights = {name: _round(value) for name, value in weights.items()}

    words = _code_words()
    candidates = rng.standard_normal((CANDIDATES, TOPIC_DIMS))
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    state, clearness = _single_token_states(weights, _embed(basis, candidates, words[:1]))
    chosen = np.sort(np.argsort(-clearness, kind="stable")[:TOPICS])
    embedding = _embed(basis, candidates[chosen], words)
    head = _successor_rows(rng, (state @ basis)[chosen, SUBSPACES["topic"]], words)
    ids = rng.permutation(VOCABULARY)
    weights["model.embed_tokens.weight"] = _round(embedding[ids])
    lm_head = _reader(rng, basis, weights["model.norm.weight"], head)
    weights["lm_head.weight"] = _round(lm_head[ids])
    return weights


def _attention(rng: np.random.Generator, basis: Array, layer: int) -> dict[str, Array]:
    """Heads that all look the layer's distance back and copy the subspace found there."""
    prefix, (source, target) = f"model.layers.{layer}.", COPIES[layer]
    norm = _norm_weight(rng, HIDDEN)
    query, key = _phases(rng, LOOK_BACK[layer])
    query_norm, key_norm = (np.exp(0.7 * rng.standard_normal(HEAD_DIM)) for _ in range(2))
    query_norm *= np.sqrt(np.mean((query / query_norm) ** 2))
    key_norm *= np.sqrt(np.mean((key / key_norm) ** 2))
    carry = _orthonormal(rng, KV_HEADS * HEAD_DIM, WORD_DIMS)
    per_head = carry.reshape(KV_HEADS, HEAD_DIM, WORD_DIMS).repeat(HEADS // KV_HEADS, axis=0)
    collect = per_head.reshape(-1, WORD_DIMS).T * (KV_HEADS / HEADS)
    read = {
        "q": _into((query / query_norm).reshape(-1, 1), "one"),
        "k": _into((key / key_norm).reshape(-1, 1), "one"),
        "v": _into(COPY_GAINS[layer] * carry, source),
    }
    attention = f"{prefix}self_attn."
    return {
        f"{prefix}input_layernorm.weight": norm,
        **{f"{attention}{n}_proj.weight": _reader(rng, basis, norm, r) for n, r in read.items()},
        f"{attention}q_norm.weight": query_norm,
        f"{attention}k_norm.weight": key_norm,
        f"{attention}o_proj.weight": _writer(rng, basis, _into(collect.T, target).T),
    }


def _phases(rng: np.random.Generator, look_back: int) -> tuple[Array, Array]:
    """Query [heads, D] and key [kv heads, D] that RoPE aligns `look_back` positions apart."""
    pairs = HEAD_DIM // 2
    frequency = CONFIG["rope_theta"] ** (-np.arange(pairs) / pairs)
    angle = rng.uniform(0.0, 2.0 * np.pi, (KV_HEADS, pairs))
    length = np.sqrt(FREQUENCY_SCORES * np.sqrt(HEAD_DIM))
    key = length * np.exp(1j * angle)
    query = (key * np.exp(-1j * frequency * look_back)).repeat(HEADS // KV_HEADS, axis=0)
    return (
        np.concatenate([query.real, query.imag], axis=1),
        np.concatenate([key.real, key.imag], axis=1),
    )


def _experts(rng: np.random.Generator, basis: Array, layer: int) -> dict[str, Array]:
    """Random experts on `topic`; the router sees each pair of experts with opposite signs."""
    prefix = f"model.layers.{layer}."
    norm = _norm_weight(rng, HIDDEN)
    half = rng.standard_normal((EXPERTS // 2, TOPIC_DIMS))
    router = ROUTER_GAIN * np.stack([half, -half], axis=1).reshape(EXPERTS, TOPIC_DIMS)
    weights = {
        f"{prefix}post_attention_layernorm.weight": norm,
        f"{prefix}mlp.gate.weight": _reader(rng, basis, norm, _into(router, "topic")),
    }
    for expert in range(EXPERTS):
        for name in ("gate", "up"):
            read = _into(0.5 * rng.standard_normal((EXPERT_WIDTH, TOPIC_DIMS)), "topic")
            weights[f"{prefix}mlp.experts.{expert}.{name}_proj.weight"] = _reader(
                rng, basis, norm, read
            )
        down = EXPERT_GAINS[layer] / EXPERT_WIDTH * rng.standard_normal((EXPERT_WIDTH, TOPIC_DIMS))
        weights[f"{prefix}mlp.experts.{expert}.down_proj.weight"] = _writer(
            rng, basis, _into(down, "topic").T
        )
    return weights


def _successor_rows(rng: np.random.Generator, topic_states: Array, words: Array) -> Array:
    """LM head [topics*words, H]: row (next topic, next word) in the coordinates of the subspaces.

    Topics follow one another in a single cycle through all of them, words likewise.
    """
    directions = topic_states - topic_states.mean(axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rows = np.zeros((TOPICS, WORDS, HIDDEN))
    rows[:, :, SUBSPACES["topic"]] = TOPIC_LOGIT * directions[_predecessors(rng, TOPICS), None, :]
    rows[:, :, SUBSPACES["recall"]] = WORD_LOGIT * words[_predecessors(rng, WORDS)]
    return rows.reshape(VOCABULARY, HIDDEN)


def _predecessors(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """predecessor[i] of each of `count` things in one random cycle."""
    cycle = rng.permutation(count)
    predecessor = np.empty(count, dtype=np.int64)
    predecessor[np.roll(cycle, -1)] = cycle
    return predecessor


def _single_token_states(weights: Mapping[str, Array], hidden: Array) -> tuple[Array, Array]:
    """Run the layers in float64 on prompts of one token, all at once.

    A single token attends to itself alone, so queries, keys and RoPE play no part. Returns the
    final normed state without the norm's weight [N, H], and how clear the routing was [N]: the
    least gap, over the layers, between the last chosen router logit and the first not chosen.
    """
    clearness = np.full(len(hidden), np.inf)
    for layer in range(len(LOOK_BACK)):
        prefix = f"model.layers.{layer}."
        normed = _rms(hidden) * weights[f"{prefix}input_layernorm.weight"]
        value = normed @ weights[f"{prefix}self_attn.v_proj.weight"].T
        value = value.reshape(-1, KV_HEADS, HEAD_DIM).repeat(HEADS // KV_HEADS, axis=1)
        output = weights[f"{prefix}self_attn.o_proj.weight"]
        hidden = hidden + value.reshape(len(hidden), -1) @ output.T
        normed = _rms(hidden) * weights[f"{prefix}post_attention_layernorm.weight"]
        logits = normed @ weights[f"{prefix}mlp.gate.weight"].T
        ranked = -np.sort(-logits, axis=1)
        clearness = np.minimum(clearness, ranked[:, TOP_K - 1] - ranked[:, TOP_K])
        chosen = logits >= ranked[:, TOP_K - 1 : TOP_K]
        share = np.where(chosen, np.exp(logits - ranked[:, :1]), 0.0)
        share /= share.sum(axis=1, keepdims=True)
        hidden = hidden + _mix(weights, f"{prefix}mlp.experts.", normed, share)
    return _rms(hidden), clearness


def _mix(weights: Mapping[str, Array], prefix: str, normed: Array, share: Array) -> Array:
    """Sum of the experts' SwiGLU outputs [N, H], each weighted by its column of `share` [N, E]."""
    total = np.zeros_like(normed)
    for expert in range(EXPERTS):
        gate, up, down = (
            weights[f"{prefix}{expert}.{name}_proj.weight"].T for name in ("gate", "up", "down")
        )
        gated = normed @ gate
        activated = gated / (1.0 + np.exp(-gated)) * (normed @ up)
        total += share[:, expert : expert + 1] * (activated @ down)
    return total


def _embed(basis: Array, topics: Array, words: Array) -> Array:
    """Embeddings [len(topics)*len(words), H] of all pairs, topic by topic."""
    parts = np.zeros((len(topics), len(words), HIDDEN))
    parts[:, :, SUBSPACES["topic"]] = topics[:, None, :]
    parts[:, :, SUBSPACES["word"]] = words
    parts[:, :, SUBSPACES["one"]] = 1.0
    return parts.reshape(-1, HIDDEN) @ basis.T


def _code_words() -> Array:
    """The 16 biorthogonal words of 8 dimensions: rows of a Hadamard matrix and their opposites."""
    hadamard = np.ones((1, 1))
    while len(hadamard) < WORD_DIMS:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    hadamard /= np.sqrt(WORD_DIMS)
    return np.concatenate([hadamard, -hadamard])


def _into(matrix: Array, subspace: str) -> Array:
    """`matrix` [N, d] as a matrix [N, H] that touches one subspace alone."""
    wide = np.zeros((len(matrix), HIDDEN))
    wide[:, SUBSPACES[subspace]] = matrix
    return wide


def _reader(rng: np.random.Generator, basis: Array, norm: Array, matrix: Array) -> Array:
    """A stored weight [N, H] that applies `matrix` to what stands before the norm's weight."""
    return (_with_noise(rng, matrix) @ basis.T) / norm


def _writer(rng: np.random.Generator, basis: Array, matrix: Array) -> Array:
    """A stored weight [H, N] that writes `matrix` [H, N] into the rotated hidden state."""
    return basis @ _with_noise(rng, matrix)


def _with_noise(rng: np.random.Generator, matrix: Array) -> Array:
    """`matrix` plus `NOISE` of its root mean square on every element."""
    scale = NOISE * np.sqrt(np.mean(matrix**2))
    return matrix + scale * rng.standard_normal(matrix.shape)


def _norm_weight(rng: np.random.Generator, size: int) -> Array:
    """Positive norm weights around one, most between 0.7 and 1.5; bfloat16 values."""
    return _round(np.exp(0.2 * rng.standard_normal(size)))


def _orthonormal(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """A random matrix with orthonormal columns, rows >= columns."""
    q, r = np.linalg.qr(rng.standard_normal((rows, columns)))
    return q * np.sign(np.diag(r))


def _rms(x: Array) -> Array:
    """x over its root mean square along the last axis, with the model's epsilon."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + CONFIG["rms_norm_eps"])


def _round(x: Array) -> Array:
    """x rounded to the nearest bfloat16, as float64."""
    return x.astype(ml_dtypes.bfloat16).astype(np.float64)


def _tokenizer_config() -> dict[str, Any]:
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIAL_TOKENS[EOS_ID],
        "model_max_length": CONFIG["max_position_embeddings"],
        "pad_token": SPECIAL_TOKENS[PAD_ID],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
