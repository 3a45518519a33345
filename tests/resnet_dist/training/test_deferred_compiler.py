"""torch's compiler is imported by those who compile, and by nobody else. Each case is a process of its own."""

import subprocess
import sys

import pytest

TRAIN = """
import sys
from tests.small_runs import small_config, small_dataset, trace
one = trace(small_config(solver__kind="{kind}"), small_dataset(), 3)
assert "torch._dynamo.eval_frame" not in sys.modules, "the compiler was imported"
assert "torch._inductor" not in sys.modules, "the compiler's back end was imported"
"""
THEN_COMPILE = """
import torch
import torch._dynamo.config
assert torch._dynamo.config is sys.modules["torch._dynamo.config"]
called = []
def backend(graph, inputs):
    called.append(graph)
    return graph.forward
assert torch.compile(lambda x: 2 * x + 1, backend=backend)(torch.ones(3)).tolist() == [3.0] * 3
assert called, "nothing was compiled"
other = trace(small_config(solver__kind="{kind}"), small_dataset(), 3)
assert other.losses == one.losses
"""


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_training_imports_no_compiler_and_leaves_one_to_those_who_compile(kind: str) -> None:
    text = (TRAIN + THEN_COMPILE).replace("{kind}", kind)
    run = subprocess.run([sys.executable, "-c", text], stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr
