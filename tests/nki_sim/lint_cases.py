"""For each rule of the language check: sources that break it, and sources that keep it.

``$`` marks the line that the finding must name. Each source is a module whose kernel is ``k``; the
three imports of NKI are put in front, and the decorator before ``def k``.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD = "import nki\nimport nki.isa as nisa\nimport nki.language as nl\n"
TILE = "t = nl.ndarray((4, 8), dtype=nl.float32, buffer=nl.sbuf)"
INTEGERS = "t = nl.ndarray((4, 8), dtype=nl.int32, buffer=nl.sbuf)"
BANK = "t = nl.ndarray((4, 8), dtype=nl.float32, buffer=nl.psum)"


@dataclass(frozen=True)
class Case:
    """Sources for one rule.

    Attributes:
        rule: its id.
        breaks, keeps: kernel bodies (or whole modules, where they define ``k``).
        versions: the releases that the finding concerns, None for all.
        oracle: whether a snapshot of the compiler's front end refuses `breaks` too; None where it
            does not look.
    """

    rule: str
    breaks: str
    keeps: str
    versions: tuple[str, ...] | None = None
    oracle: bool | None = None


def module(source: str) -> str:
    """A whole module for a kernel's body."""
    if "def k(" not in source:
        body = "".join(f"    {line}\n" for line in source.splitlines())
        source = f"def k(x):\n{body}    return x\n"
    return (
        HEAD + source.replace("\ndef k(", "\n@nki.jit\ndef k(", 1)
        if "@nki.jit" in source
        else (HEAD + ("\n" + source).replace("\ndef k(", "\n@nki.jit\ndef k(", 1))
    )


OLD = ("2.27", "2.28")
NEW = ("2.29", "2.30", "2.31", "2.32")
BEFORE_2_32 = ("2.27", "2.28", "2.29", "2.30", "2.31")

CASES = (
    Case("nested-function", "def g(a):  # $\n    return a", "pass", BEFORE_2_32, oracle=True),
    Case("nested-class", "class A:  # $\n    a = 1", "pass", oracle=True),
    Case(
        "exceptions",
        "try:  # $\n    a = 1\nexcept ValueError:\n    a = 2",
        "assert True",
        oracle=True,
    ),
    Case("exceptions", "raise ValueError('no')  # $", "assert True, 'no'", oracle=True),
    Case(
        "with", "with open('f'):  # $\n    a = 1", "with nl.no_reorder():\n    a = 1", oracle=True
    ),
    Case("with", "with nl.no_reorder() as f:  # $\n    a = 1", "pass"),
    Case(
        "loop-else",
        "for i in range(3):\n    a = i\nelse:\n    a = 0  # $",
        "for i in range(3):\n    a = i",
        oracle=True,
    ),
    Case(
        "loop-else",
        "i = 0\nwhile i < 3:\n    i += 1\nelse:\n    i = 0  # $",
        "i = 0\nwhile i < 3:\n    i += 1",
    ),
    Case(
        "loop-target",
        "for i, a in ((1, 2), (3, 4)):  # $\n    b = a",
        "for pair in ((1, 2), (3, 4)):\n    i, a = pair",
    ),
    Case(
        "dynamic-exit",
        "for i in nl.dynamic_range(3):\n    if x == None:\n        break  # $",
        "for i in range(3):\n    break\nfor i in nl.dynamic_range(3):\n    pass",
    ),
    Case("range-value", "a = range(3)  # $", "for i in range(3):\n    a = i"),
    Case("range-value", "a = nl.affine_range(3)  # $", "for i in nl.affine_range(3):\n    a = i"),
    Case("scope", "a = 1\ndel a  # $", "a = 1", oracle=True),
    Case(
        "scope", "G = 1\ndef k(x):\n    global G  # $\n    G = 2\n    return x", "pass", oracle=True
    ),
    Case(
        "import",
        "import math  # $",
        "import math\ndef k(x):\n    a = math.ceil(1.5)\n    return x",
        oracle=True,
    ),
    Case("generator", "yield x  # $", "pass", oracle=True),
    Case(
        "generator",
        "async def g(a):  # $\n    return a\ndef k(x):\n    a = g(1)\n    return x",
        "pass",
    ),
    Case("match", "match x:  # $\n    case 1:\n        pass", "if x == 1:\n    pass", oracle=True),
    Case("chained-assignment", "a = [1]\nb = [2]\na[0] = b[0] = 3  # $", "a = b = 1\nc = a = [b]"),
    Case(
        "comprehension",
        "a = [i for i in (1, 2)]  # $",
        "a = []\nfor i in (1, 2):\n    a.append(i)",
        oracle=True,
    ),
    Case("comprehension", "a = tuple(i for i in (1, 2))  # $", "pass", oracle=False),
    Case("comprehension", "a = {str(i): i for i in (1, 2)}  # $", "pass", oracle=True),
    Case(
        "lambda",
        "f = lambda a: a  # $",
        "def f(a):\n    return a\ndef k(x):\n    f(1)\n    return x",
        oracle=True,
    ),
    Case("walrus", "if (a := 1) > 0:  # $\n    pass", "a = 1\nif a > 0:\n    pass", oracle=True),
    Case("starred", "a, *b = (1, 2, 3)  # $", "a, b = (1, 2)", oracle=True),
    Case(
        "starred",
        "def g(a, b):\n    return a\ndef k(x):\n    g(*(1, 2))  # $\n    return x",
        "pass",
    ),
    Case(
        "starred",
        "def g(a, b):\n    return a\ndef k(x):\n    g(**{'a': 1, 'b': 2})  # $\n    return x",
        "def g(a, b=2):\n    return a\ndef k(x):\n    g(1, b=2)\n    return x",
    ),
    Case("starred", "a = {**{'b': 1}}  # $", "a = {'b': 1}"),
    Case("matmul-operator", "a = x @ x  # $", "a = 2 * 3", oracle=True),
    Case("identity", "if x is None:  # $\n    pass", "if x == None:\n    pass", oracle=True),
    Case(
        "membership",
        "d = {'a': 1}\nif 'a' in d:  # $\n    pass",
        "if 'a' in ('a', 'b'):\n    pass",
        oracle=True,
    ),
    Case(
        "membership",
        "if 1 in (1, 2) in ((1, 2),):  # $\n    pass",
        "if 1 not in [1, 2]:\n    pass",
        oracle=True,
    ),
    Case("format", "a = f'{1:02d}'  # $", "a = f'{1}'", oracle=True),
    Case("literal", "a = {1, 2}  # $", "a = (1, 2)", oracle=True),
    Case("literal", "a = {1: 2}  # $", "a = {'1': 2}", oracle=True),
    Case("literal", "a = 1j  # $", "a = 1.0", oracle=True),
    Case("literal", "a = b'x'  # $", "a = 'x'", oracle=True),
    Case("builtin", "for i in enumerate((1, 2)):  # $\n    pass", "for i in (1, 2):\n    pass"),
    Case("builtin", "a = sum((1, 2))  # $", "a = max(abs(-1), len((1, 2)))"),
    Case("builtin", "a = zip  # $", "a = isinstance(1, int)"),
    Case("min-max", "a = min(1, 2, 3)  # $", "a = min((1, 2, 3)) + max(1, 2)"),
    Case(
        "math",
        "import math\ndef k(x):\n    a = math.exp(1.0)  # $\n    return x",
        "import math\ndef k(x):\n    a = math.ceil(math.pi)\n    return x",
    ),
    Case("container-method", "a = [2, 1]\na.sort()  # $", "a = [2, 1]\na.append(3)\nb = a.pop()"),
    Case("container-method", "a = {'b': 1}\na.update(c=2)  # $", "a = {'b': 1}\nb = a.get('b')"),
    Case("string-method", "a = 'a,b'.split(',')  # $", "a = f'{1},{2}'"),
    Case(
        "foreign", "import numpy as np\ndef k(x):\n    a = np.sqrt(2.0)  # $\n    return x", "pass"
    ),
    Case(
        "foreign",
        "from os import environ\ndef k(x):\n    a = environ['HOME']  # $\n    return x",
        "pass",
    ),
    Case(
        "foreign",
        "import numpy as np\nC = np.float32(2)\ndef k(x):\n    a = C  # $\n    return x",
        "import numpy as np\nC = 2.0\nD = np.ones(3)\ndef k(x):\n    a = C\n    return x",
    ),
    Case("star-parameter", "def k(*x):  # $\n    return x", "def k(x):\n    return x", oracle=True),
    Case("keyword-parameters", "def k(x, **o):  # $\n    return x", "pass", oracle=False),
    Case(
        "keyword-only",
        "def k(x, *, eps=1.0):  # $\n    return x",
        "def k(x, eps=1.0):\n    return x",
        oracle=False,
    ),
    Case(
        "decorator",
        "import functools\n@functools.cache  # $\ndef g(a):\n    return a\n"
        "def k(x):\n    g(1)\n    return x",
        "pass",
    ),
    Case(
        "decorator",
        "class A(nl.NKIObject):\n    a: int\n    @property  # $\n    def b(self):\n"
        "        return 1\n"
        "def k(x):\n    a = A(1)\n    return x",
        "from dataclasses import dataclass\n@dataclass\nclass A(nl.NKIObject):\n    a: int\n"
        "    @staticmethod\n    def b(c):\n        return c\ndef k(x):\n    a = A(1)\n    return x",
    ),
    Case(
        "nested-jit",
        "@nki.jit  # $\ndef g(x):\n    return x\ndef k(x):\n    return g(x)",
        "pass",
        ("2.27",),
    ),
    Case(
        "jit-target",
        "@nki.jit(platform_target='trn2')  # $\ndef k(x):\n    return x",
        "@nki.jit()\ndef k(x):\n    return x",
        NEW,
    ),
    Case("jit-option", "@nki.jit(mode='auto')  # $\ndef k(x):\n    return x", "pass", NEW),
    Case(
        "base-class",
        "class B:\n    pass\nclass A(B):  # $\n    a: int = 1\ndef k(x):\n    a = A()\n"
        "    return x",
        "class A(nl.NKIObject):\n    a: int = 1\ndef k(x):\n    a = A()\n    return x",
    ),
    Case(
        "list-argument",
        "def k(x, sizes=[1, 2]):  # $\n    return x",
        "def g(sizes=[1]):\n    return sizes\ndef k(x, sizes=(1, 2)):\n    g()\n    return x",
        NEW,
    ),
    Case("list-argument", "def k(x, sizes: list[int]):  # $\n    return x", "pass", NEW),
    Case(
        "mutable-global",
        "G = [1, 2]\ndef k(x):\n    a = G[0]  # $\n    return x",
        "G = (1, 2)\ndef k(x):\n    a = G[0]\n    return x",
    ),
    Case(
        "global-mutation",
        "G = [1, 2]\ndef k(x):\n    G.append(3)  # $\n    return x",
        "def k(x):\n    g = [1]\n    g.append(3)\n    g[0] = 2\n    return x",
    ),
    Case("global-mutation", "G = [1, 2]\ndef k(x):\n    G[0] = 3  # $\n    return x", "pass"),
    Case(
        "old-import",
        "try:\n    import neuronxcc.nki as old  # $\nexcept ImportError:\n    old = None\n"
        "def k(x):\n    return x",
        "def k(x):\n    return x",
        ("2.30", "2.31", "2.32"),
    ),
    Case(
        "old-namespace",
        "import neuronxcc.nki.language as old\ndef k(x):\n    a = old.float32  # $\n    return x",
        "pass",
        ("2.30", "2.31", "2.32"),
    ),
    Case("tensor-assignment", f"{TILE}\nt[...] = x  # $", "a = [1]\na[0] = 2"),
    Case("tensor-operator", f"{TILE}\na = t * 2.0  # $", f"{TILE}\na = t.shape[0] * 2"),
    Case("tensor-operator", f"{TILE}\na = -t[0:2, :]  # $", f"{TILE}\nif t == None:\n    pass"),
    Case(
        "tensor-operator",
        "def k(x):\n    n = x.shape\n    d = x.dtype\n    x += 1  # $\n    return x",
        "pass",
    ),
    Case("tensor-operator", f"{TILE}\na = t > 0  # $", "a = 1 > 0"),
    Case("tensor-condition", f"{TILE}\nif t:  # $\n    pass", f"{TILE}\nif t != None:\n    pass"),
    Case(
        "tensor-attribute",
        f"{TILE}\na = t.permute((1, 0))  # $",
        f"{TILE}\na = t.reshape((4, 8))",
        ("2.27", "2.28", "2.29", "2.30"),
    ),
    Case(
        "tensor-attribute", f"{TILE}\na = t.view(nl.int32)  # $", f"{TILE}\na = t.shape", ("2.27",)
    ),
    Case(
        "on-chip-shape",
        "t = nl.ndarray((128,), dtype=nl.float32, buffer=nl.sbuf)  # $",
        "t = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)",
    ),
    Case(
        "on-chip-shape",
        "t = nl.ndarray((256, 4), dtype=nl.float32, buffer=nl.psum)  # $",
        "t = nl.ndarray((256,), dtype=nl.float32, buffer=nl.shared_hbm)",
    ),
    Case(
        "psum-dma",
        f"{BANK}\nnisa.dma_copy(dst=x, src=t)  # $",
        f"{TILE}\nnisa.dma_copy(dst=x, src=t)",
        NEW,
    ),
    Case("unknown-name", "a = nl.arange(4)  # $", f"{TILE}\nnisa.memset(dst=t, value=0.0)"),
    Case(
        "unknown-name",
        f"{TILE}\nnisa.topk(val_dst=t, idx_dst=t, src=t, n=8)  # $",
        "pass",
        BEFORE_2_32,
    ),
    Case("unknown-name", "a = nisa.engine.gpu  # $", "a = nisa.engine.vector"),
    Case(
        "unknown-name",
        "a = nl.tile_size.psum_num_banks  # $",
        "a = nl.tile_size.pmax",
        ("2.27", "2.28", "2.29", "2.30"),
    ),
    Case(
        "unknown-name",
        "BANKS = nl.tile_size.psum_num_banks  # $\ndef k(x):\n    a = BANKS + BANKS\n    return x",
        "BANKS = 8 * nl.tile_size.pmax\ndef k(x):\n    a = BANKS\n    return x",
        ("2.27", "2.28", "2.29", "2.30"),
    ),
    Case(
        "unknown-keyword",
        f"{TILE}\nnisa.tensor_copy(dst=t, src=t, mask=None)  # $",
        f"{TILE}\nnisa.tensor_copy(dst=t, src=t)",
    ),
    Case(
        "unknown-keyword",
        f"{TILE}\nnisa.nc_matmul(dst=t, stationary=t, moving=t, accumulate=True)  # $",
        f"{TILE}\nnisa.nc_matmul(dst=t, stationary=t, moving=t)",
        OLD,
    ),
    Case(
        "argument-order",
        f"{TILE}\nnisa.dma_copy(t, x, nisa.oob_mode.skip)  # $",
        f"{TILE}\nnisa.dma_copy(t, x, oob_mode=nisa.oob_mode.skip)",
    ),
    Case(
        "too-many-arguments", f"{TILE}\nnisa.max8(t, t, None, 1)  # $", f"{TILE}\nnisa.max8(t, t)"
    ),
    Case(
        "missing-argument",
        f"{INTEGERS}\nnisa.iota(dst=t, pattern=[[1, 8]])  # $",
        f"{INTEGERS}\nnisa.iota(dst=t, pattern=[[1, 8]], offset=0)",
        OLD,
    ),
    Case("missing-argument", "a = nl.program_id()  # $", "a = nl.program_id(0)", OLD),
    Case(
        "sequential-range",
        "for i in nl.sequential_range(4):  # $\n    pass",
        "for i in nl.sequential_range(0, 4, 1):\n    pass",
        OLD,
    ),
    Case(
        "instruction-value",
        f"{TILE}\na = nisa.reciprocal(dst=t, data=t)  # $",
        "a = nisa.get_nc_version()",
        BEFORE_2_32,
    ),
    Case(
        "tensor-helper",
        f"{TILE}\na = nl.add(t, t)  # $",
        f"{TILE}\nnisa.tensor_tensor(dst=t, data1=t, data2=t, op=nl.add)",
        OLD,
    ),
    Case("experimental-helper", "a = nl.load(x)  # $", "pass", NEW),
    Case(
        "buffer-string", "t = nl.ndarray((4, 8), dtype=nl.float32, buffer='sbuf')  # $", TILE, NEW
    ),
    Case(
        "hbm-alias",
        "t = nl.ndarray((4, 8), dtype=nl.float32, buffer=nl.hbm)  # $",
        "t = nl.ndarray((4, 8), dtype=nl.float32, buffer=nl.private_hbm)",
    ),
    Case(
        "enumeration",
        f"{TILE}\nnisa.dma_copy(dst=t, src=x, dge_mode=3)  # $",
        f"{TILE}\nnisa.dma_copy(dst=t, src=x, dge_mode=nisa.dge_mode.none)",
        NEW,
    ),
    Case(
        "scalar-bias",
        f"EPS = 1e-6\ndef k(x):\n    {TILE}\n"
        "    nisa.activation(dst=t, op=nl.exp, data=t, bias=EPS)  # $\n    return x",
        f"{TILE}\nnisa.activation(dst=t, op=nl.exp, data=t, bias=t[:, 0:1])",
        OLD,
    ),
    Case(
        "unresolved",
        "from not_installed.parts import helper\ndef k(x):\n    helper(x)  # $\n    return x",
        "from math import ceil\ndef k(x):\n    a = ceil(1.5)\n    return x",
    ),
    Case(
        "memset-kind",
        f"{INTEGERS}\nnisa.memset(dst=t, value=0.0)  # $",
        f"{INTEGERS}\nnisa.memset(dst=t, value=0)",
        NEW,
    ),
    Case(
        "reduce-axis",
        f"{TILE}\nnisa.tensor_reduce(dst=t, op=nl.add, data=t, axis=2)  # $",
        f"{TILE}\nnisa.tensor_reduce(dst=t, op=nl.add, data=t, axis=1)",
    ),
    Case(
        "reduce-axis",
        f"{TILE}\nnisa.tensor_reduce(dst=t, op=nl.add, data=t, axis=(1, 2))  # $",
        f"{TILE}\nnisa.tensor_reduce(dst=t, op=nl.add, data=t, axis=(1,))",
    ),
    Case(
        "version-order",
        "if nisa.get_nc_version() >= nisa.nc_version.gen3:  # $\n    pass",
        "if nisa.get_nc_version() == nisa.nc_version.gen3:\n    pass",
        OLD,
    ),
    Case(
        "duplicate-name",
        f"{TILE}\nfor i in range(2):\n    nisa.memset(dst=t, value=0.0, name='a')  # $",
        f"{TILE}\nfor i in range(2):\n    nisa.memset(dst=t, value=0.0, name=f'a{{i}}')",
    ),
    Case(
        "duplicate-name",
        f"{TILE}\nnisa.memset(dst=t, value=0.0, name='a')\n"
        "nisa.memset(dst=t, value=1.0, name='a')  # $",
        f"{TILE}\nif x == None:\n    nisa.memset(dst=t, value=0.0, name='a')\n"
        "else:\n    nisa.memset(dst=t, value=1.0, name='a')",
    ),
    Case("deprecated", "a = nl.par_dim(128)  # $", "a = 128"),
    Case("deprecated", "for i in nl.dynamic_range(4):  # $\n    pass", "pass", ("2.32",)),
)
