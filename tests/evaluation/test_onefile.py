"""The file for the leaderboard: equal to the modules it is made of, in everything they compute."""

from __future__ import annotations

import ast
import importlib.util
import io
import os
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from evaluation import onefile
from evaluation.onefile import OneFileError, bundle
from kernels.specs import SPECS
from model.tiny import write_tiny_checkpoint
from nki_sim import lint
from tests.model import nxdi_double

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made() -> onefile.OneFile:
    return bundle(ROOT, "0" * 40)


@pytest.fixture(scope="module")
def file(made: onefile.OneFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("leaderboard") / onefile.FILE_NAME
    path.write_text(made.text, encoding="utf-8")
    return path


@pytest.fixture
def release() -> Iterator[None]:
    with nxdi_double.installed("2.29"):
        yield


def load(path: Path, name: str = "the_bundle") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # NxD Inference and dataclasses look modules up by their name
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


# The real bundle --------------------------------------------------------------------------


def test_it_is_made_alike_twice_and_elsewhere(made: onefile.OneFile) -> None:
    assert bundle(ROOT, "0" * 40).text == made.text
    program = (
        "from pathlib import Path; from evaluation.onefile import bundle; import sys;"
        "sys.stdout.write(bundle(Path.cwd(), '0' * 40).text)"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )  # fmt: skip
    assert other.stdout == made.text


def test_the_source_map_is_true(made: onefile.OneFile) -> None:
    """Nearly every line of a source stands, unchanged and in order, where the map says."""
    lines = made.text.splitlines()
    assert made.parts[-1].file == "model/qwen_with_nki.py"
    for part in made.parts:
        assert lines[part.first_line - 2].startswith(f"# ---- {part.file} ")
        mapped = lines[part.first_line - 1 : part.last_line]
        assert mapped[-1].strip() and f"{part.first_line:>5}-{part.last_line:<5}" in made.text
        if "reduced" not in part.file:
            source = (ROOT / part.file).read_text().splitlines()
            kept = [line for line in source if line in set(mapped)]
            assert len(kept) > 0.8 * len(source), part.file  # the rest names what clashes
            assert part.sha256[:16] in made.text


def test_docstrings_and_comments_are_kept(made: onefile.OneFile) -> None:
    text_comments = comments(made.text)
    for part in made.parts:
        if "reduced" in part.file:
            continue
        source = (ROOT / part.file).read_text()
        assert set(comments(source)) <= set(text_comments), part.file
        for node in ast.walk(ast.parse(source)):
            documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
            docstring = ast.get_docstring(node) if isinstance(node, documented) else None
            if docstring:
                assert docstring.splitlines()[0] in made.text


def comments(source: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def test_the_compilers_take_it(file: Path) -> None:
    assert [str(finding) for finding in lint.check(file) if finding.is_error] == []


def test_it_is_imported_alone_without_effects(file: Path) -> None:
    """No package of this project, no network, no environment variable, no output."""
    program = (
        "import sys, socket, os\n"
        "import neuronx_distributed_inference.models.qwen3_moe.modeling_qwen3_moe\n"
        "before = dict(os.environ)\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        f"sys.path.insert(0, {str(file.parent)!r})\n"
        "import qwen_with_nki\n"
        "assert dict(os.environ) == before\n"
        # transformers looks for a package `kernels` of its own, and may find the folder of ours
        "ours = [m for m in sys.modules if m.startswith(('model.', 'kernels.', 'evaluation'))]\n"
        "assert not ours, ours\n"
        "qwen_with_nki.NeuronQwen3MoeForCausalLM.get_neuron_config_cls()\n"
    )
    nki = "import nki_sim.install; nki_sim.install.install()\n"
    folder = file.parent / "only_the_simulator"
    if not folder.exists():
        folder.mkdir()
        (folder / "nki_sim").symlink_to(ROOT / "nki_sim")
    paths = os.pathsep.join([str(nxdi_double.SITE), str(folder)])
    done = subprocess.run(
        [sys.executable, "-c", nki + program], cwd=file.parent, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("name", SPECS)
def test_each_kernel_computes_the_same(name: str, file: Path, release: None) -> None:
    spec = SPECS[name]
    ours, bundled = spec.load(), getattr(load(file), spec.function)
    case = min(spec.cases, key=lambda c: sum(np.prod(s) for s in c.shapes.values()))
    arguments = spec.inputs(case, spec.dtypes[0], seed=3)
    first, second = ours(**arguments), bundled(**arguments)
    pairs = zip(first, second, strict=True) if isinstance(first, tuple) else [(first, second)]
    for one, other in pairs:
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_the_model_computes_the_same(file: Path, release: None, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    from model import dispatch, qwen_with_nki

    module = load(file)
    with dispatch.counting() as launched:
        modules = logits_of(qwen_with_nki, tmp_path)
    with module.counting() as bundled_launches:
        bundled = logits_of(module, tmp_path)
    assert torch.equal(modules, bundled)
    assert launched == bundled_launches and sum(launched.values()) > 0
    assert [tuple(w) for w in module.NeuronQwen3MoeForCausalLM.why_not()] == [
        tuple(w) for w in qwen_with_nki.NeuronQwen3MoeForCausalLM.why_not()
    ]


def logits_of(module: Any, path: Path) -> torch.Tensor:
    from neuronx_distributed_inference.utils.hf_adapter import load_pretrained_config

    kind = module.NeuronQwen3MoeForCausalLM
    settings = kind.get_neuron_config_cls()(on_cpu=True, torch_dtype=torch.float32, seq_len=32)
    config = kind.get_config_cls()(settings, load_config=load_pretrained_config(str(path)))
    model = kind(str(path), config)
    model.to_cpu()
    with torch.inference_mode():
        first = model.model(torch.arange(100, 112)[None])
        return torch.cat([first, model.model(torch.tensor([[7]]), 12)])


# Names, on small projects -----------------------------------------------------------------


def project(folder: Path, **sources: str) -> Path:
    """Write modules below model/ (or kernels/, by a prefix k_); the entry is model/entry.py."""
    for name, source in sources.items():
        package = "kernels" if name.startswith("k_") else "model"
        path = folder / package / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    return folder


def run(folder: Path) -> dict[str, Any]:
    text = bundle(folder, None, "model.entry").text
    namespace: dict[str, Any] = {"__name__": "bundled"}
    exec(compile(text, "bundle", "exec"), namespace)
    return namespace


def test_names_that_clash_stay_apart(tmp_path: Path) -> None:
    project(
        tmp_path,
        first="LIMIT = 1\n_state = 'a'\n\n\ndef value():\n    return LIMIT, _state\n",
        second="LIMIT = 2\n_state = 'b'\n\n\ndef value():\n    global _state\n"
        "    _state = _state + '!'\n    return LIMIT, f'{_state} of {LIMIT}'\n",
        entry="from model import first, second as other\nfrom model.first import value as v\n"
        "LIMIT = 3\n\n\ndef all():\n    return v(), first.LIMIT, other.value(), LIMIT\n",
    )
    assert run(tmp_path)["all"]() == ((1, "a"), 1, (2, "b! of 2"), 3)


def test_a_builtin_is_not_hidden_by_another_module(tmp_path: Path) -> None:
    project(
        tmp_path,
        helper="def sum(values):\n    return 'own'\n\n\ndef use():\n    return sum([1])\n",
        entry="from model import helper\n\n\ndef both():\n    return sum([1, 2]), helper.use()\n",
    )
    assert run(tmp_path)["both"]() == (3, "own")


def test_a_local_name_does_not_hide_what_is_meant(tmp_path: Path) -> None:
    project(
        tmp_path,
        helper="def rows(n):\n    return n * 10\n",
        entry="from model import helper\nfrom model.helper import rows as count\n\n\n"
        "def f(rows):\n    return helper.rows(rows), [count(rows) for rows in (1, 2)]\n",
    )
    assert run(tmp_path)["f"](4) == (40, [10, 20])


def test_locals_attributes_keywords_and_methods_keep_their_names(tmp_path: Path) -> None:
    project(
        tmp_path,
        helper="def scale(x, *, size=2):\n    return x * size\n\n\nclass Box:\n    size = 7\n\n"
        "    def scale(self):\n        return scale(self.size, size=3)\n",
        entry="from model.helper import Box\nfrom model import helper\n\n\ndef scale(size):\n"
        "    box = Box()\n    box.size = size\n"
        "    return box.scale(), helper.scale(1, size=size)\n",
    )
    assert run(tmp_path)["scale"](5) == (15, 5)


def test_imports_inside_functions_and_for_types(tmp_path: Path) -> None:
    project(
        tmp_path,
        k_common="WIDTH = 4\n",
        other="WIDTH = 5\n",
        entry="from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from model.other import "
        "WIDTH\n\n\ndef late():\n    from kernels.k_common import WIDTH\n    return WIDTH\n\n\n"
        "def later():\n    from model import other\n    return other.WIDTH\n",
    )
    namespace = run(tmp_path)
    assert (namespace["late"](), namespace["later"]()) == (4, 5)


def test_a_name_that_is_handed_on_is_followed(tmp_path: Path) -> None:
    project(
        tmp_path,
        origin="def f():\n    return 'origin'\n",
        between="from model.origin import f as g\n",
        entry="from model.between import g\n\n\ndef f():\n    return g()\n",
    )
    assert run(tmp_path)["f"]() == "origin"


@pytest.mark.parametrize("entry, says", [
    ("from model.helper import *\n", "hides what is meant"),
    ("import model.helper\n", "uses the module as a value"),
    ("from model import helper\nx = [helper]\n", "the module helper is used as a value"),
    ("from model.helper import absent\nx = absent\n", "absent is not defined in"),
    ("from model import nothing\n", "there is no"),
    ("from json import loads as dumps\nfrom model import helper\ny = helper.x\n", "use one name"),
])  # fmt: skip
def test_what_cannot_be_laid_together_is_refused(tmp_path: Path, entry: str, says: str) -> None:
    project(tmp_path, helper="from json import dumps\n\nx = dumps({})\n", entry=entry)
    with pytest.raises(OneFileError, match=says):
        bundle(tmp_path, None, "model.entry")


def test_the_header_tells_where_it_comes_from(tmp_path: Path) -> None:
    project(tmp_path, entry='"""What it is."""\n\nx = 1\n')
    text = bundle(tmp_path, "c" * 40, "model.entry").text
    assert f"# Commit: {'c' * 40}" in text and "model/entry.py" in text
    assert ast.get_docstring(ast.parse(text)) == "What it is."
