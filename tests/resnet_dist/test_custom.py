"""Code of the user's own: what is found and travels, and what is refused before anything runs."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resnet_dist import custom_code as custom
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.custom_source import custom_images
from resnet_dist.errors import ConfigurationError, DataError, UserError
from resnet_dist.networks.batch_norm import SynchronisedBatchNorm, convert
from resnet_dist.training.custom_checks import check_code


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    custom.install({})


def config_of(**settings: Any) -> TrainingConfig:
    base: dict[str, Any] = {"network.depth": 8, "network.width": 2}
    if "solver__kind" in settings:
        base["solver.learning_rate"] = 0.1
    return TrainingConfig().override(base | {name.replace("__", "."): value for name, value in settings.items()})


def refused(text: str, **settings: Any) -> str:
    """What `check_code` says of a module `own` with this text."""
    custom.install({"own.py": text})
    with pytest.raises(ConfigurationError) as caught:
        check_code(config_of(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


NETWORK = """
import torch
from torch import nn
import torch.nn.functional as F
from resnet_dist.extension import SynchronisedBatchNorm, convert

class Network(nn.Module):
    def __init__(self, network, batch_norm, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = SynchronisedBatchNorm(4, batch_norm.eps)
        self.linear = nn.Linear(4, classes)

    def forward(self, images):
        out = F.relu(self.norm(self.conv(images))).mean((2, 3))
        return self.linear(out)
"""


def test_a_network_that_keeps_the_laws_is_accepted() -> None:
    custom.install({"own.py": NETWORK})
    check_code(config_of(network__family="own:Network"))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "(self, network, batch_norm, classes)",
            "(self, network)",
            "callable as Network(network, batch_norm, classes)",
        ),
        ("SynchronisedBatchNorm(4, batch_norm.eps)", "nn.BatchNorm2d(4)", "layer norm is a BatchNorm2d"),
        ("SynchronisedBatchNorm(4, batch_norm.eps)", "nn.SyncBatchNorm(4)", "layer norm is a SyncBatchNorm"),
        (
            "SynchronisedBatchNorm(4, batch_norm.eps)",
            "nn.InstanceNorm2d(4, track_running_stats=True)",
            "InstanceNorm2d",
        ),
        ("self.linear(out)", "self.linear(F.dropout(out))", "draws random numbers"),
        (
            "self.linear(out)",
            "self.linear(out - out.mean(0))",
            "computes something else from a batch that workers share",
        ),
        ("self.linear(out)", "self.linear(out)[:, :3]", "logits of shape [5, 3]"),
        ("self.linear(out)", "self.linear(out) / 0", "not finite"),
        ("self.linear(out)", "self.linear(out.view(out.shape[0], -1))", "some have no image in a batch"),
        ("self.linear = ", "self.idle = nn.Linear(2, 2); self.linear = ", "parameter idle.weight has no part"),
        ("self.linear(out)", "self.linear(out if self.training else out - out.mean(0))", "neighbours in evaluation"),
        ("self.linear(out)", "self.linear(undefined)", "fails on a batch of 5 images: NameError"),
        ("import torch\n", "import torch, no_such_module\n", "cannot be imported: ModuleNotFoundError"),
        ("class Network(nn.Module)", "class Net(nn.Module)", "has no callable 'Network'; it has Net"),
    ],
)
def test_a_network_that_breaks_a_law_is_refused_in_one_line(old: str, new: str, says: str) -> None:
    assert NETWORK.count(old) == 1
    message = refused(NETWORK.replace(old, new), network__family="own:Network")
    assert message.startswith("network.family: 'own:Network': ") and says in message


def test_what_is_no_module_is_refused() -> None:
    text = "def network(network, batch_norm, classes): return 3\ndef block(a, b, c, d, e): return 4"
    assert "gives a value of type int, no nn.Module" in refused(text, network__family="own:network")
    assert "gives a value of type int, no nn.Module" in refused(text, network__block="own:block")


def test_exact_mode_is_refused_for_a_network_and_not_for_a_solver() -> None:
    for setting in ("network.family", "network.block"):
        with pytest.raises(
            ConfigurationError, match=r"run\.exact: .* leave it out with a network or block of your own"
        ):
            TrainingConfig().override({setting: "own:Network", "run.exact": True})
    custom.install({"own.py": SOLVER})
    check_code(config_of(solver__kind="own:Momentum", run__exact=True))


SOLVER = """
import torch

class Momentum(torch.optim.Optimizer):
    def __init__(self, parameters, solver):
        super().__init__(parameters, {"lr": solver.learning_rate})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weights in group["params"]:
                mean = self.state[weights].setdefault("mean", torch.zeros_like(weights))
                mean.mul_(0.9).add_(weights.grad)
                weights.sub_(group["lr"] * mean)
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("(self, parameters, solver)", "(self, parameters)", "callable as Momentum(parameters, solver)"),
        ('{"lr": solver.learning_rate}', "{}", "have no 'lr'"),
        ('group["lr"] * mean', "0 * mean", "does not change the weights"),
        ('group["lr"] * mean', "mean / 0", "not finite"),
        ('group["lr"] * mean', "torch.rand_like(mean)", "draws random numbers"),
        ("self.state[weights].setdefault", "vars(self).setdefault", "goes on differently after a checkpoint (law 2)"),
    ],
)
def test_a_solver_that_breaks_a_law_is_refused_in_one_line(old: str, new: str, says: str) -> None:
    text = SOLVER.replace(old, new)
    assert text != SOLVER
    message = refused(text, solver__kind="own:Momentum")
    assert message.startswith("solver.kind: 'own:Momentum': ") and says in message


def test_a_solver_must_be_given_a_learning_rate_and_may_use_every_setting() -> None:
    with pytest.raises(ConfigurationError, match=r"solver\.learning_rate: None is not allowed; it must be given"):
        TrainingConfig().override({"solver.kind": "own:Momentum"})
    solver = (
        TrainingConfig().override({"solver.kind": "own:Momentum", "solver.learning_rate": 1, "solver.rho": 0.5}).solver
    )
    assert (solver.rho, solver.momentum) == (0.5, None)


DATA = """
import numpy as np
from resnet_dist.extension import DecodedImages

def source():
    images, labels = np.zeros((4, 3, 32, 32), np.uint8), np.arange(4) % 2
    return DecodedImages(images, labels, images, labels, classes=("a", "b"))
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("return DecodedImages", "return tuple", "TypeError"),
        ("np.uint8), np", "np.float32), np", "train_images is float32; it must be a NumPy array of uint8"),
        ("(4, 3, 32, 32)", "(4, 32, 32, 3)", "train_images has shape [4, 32, 32, 3]"),
        ("np.arange(4) % 2", "np.arange(4)", "train_labels are not all from 0 to 1"),
        ("def source()", "def source(where)", "must be callable as source()"),
        ("images, labels = ", "images, labels = 1 / 0, ", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_data_source_of_the_wrong_form_is_refused_in_one_line(old: str, new: str, says: str) -> None:
    assert DATA.count(old) == 1
    custom.install({"own.py": DATA.replace(old, new)})
    with pytest.raises(UserError) as caught:
        custom_images("own:source")
    assert str(caught.value).startswith("data.source: 'own:source': ") and says in str(caught.value)


def test_images_of_another_size_train_with_the_option_that_the_message_names(cache: Path) -> None:
    from resnet_dist.data.dataset import load_dataset

    text = DATA.replace("np.zeros((4, 3, 32, 32)", "np.ones((4, 3, 48, 48)")
    custom.install({"own.py": text.replace("return", "images[::2] = 9; return")})
    data = config_of(data__source="own:source", data__batch_size=2).data
    with pytest.raises(DataError, match=r"data\.size: .* are 48x48 pixels, not 32x32; give data\.size 48"):
        load_dataset(data)
    dataset = load_dataset(replace(data, size=48))
    assert dataset.train_images.shape == (4, 3, 48, 48) and dataset.mean.shape == (3, 48, 48)


def test_a_data_source_that_reads_nothing_is_called_once_until_its_text_changes(cache: Path) -> None:
    from resnet_dist.data.dataset import load_dataset

    data = config_of(data__source="own:source", data__batch_size=2).data
    text = DATA.replace(
        "np.zeros((4, 3, 32, 32), np.uint8)", "np.arange(4 * 3072).reshape(4, 3, 32, 32).astype(np.uint8)"
    )
    text += "\nsource.inputs = []\n"
    custom.install({"own.py": text})
    first = load_dataset(data)
    assert first.classes == ("a", "b") and len(first.test_labels) == 4
    (entry,) = cache.glob("custom-own-source-*-v1")
    written = entry.stat().st_ino
    assert load_dataset(data).fingerprint == first.fingerprint and entry.stat().st_ino == written
    custom.install({"own.py": text.replace("np.arange(4 *", "7 + np.arange(4 *")})
    assert load_dataset(data).fingerprint != first.fingerprint
    custom.install({"own.py": text})
    assert load_dataset(data).fingerprint == first.fingerprint


# What travels


def test_a_module_takes_along_what_it_imports_beside_it_and_nothing_else(tmp_path: Path) -> None:
    files = {
        "nets/__init__.py": "",
        "nets/wide.py": "import numpy\nfrom . import parts\nfrom .more.layers import Layer\nimport beside\n"
        "def wide(): return parts.P + beside.B",
        "nets/parts.py": "from resnet_dist.errors import UserError\nP = 1",
        "nets/more/layers.py": "class Layer: pass",
        "nets/unused.py": "1 / 0",
        "beside.py": "B = 2",
        "numpy_like.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    texts = custom.collect({"network.family": "nets.wide:wide"}, [tmp_path])
    assert texts.keys() == {
        "nets/__init__.py",
        "nets/wide.py",
        "nets/parts.py",
        "nets/more/__init__.py",
        "nets/more/layers.py",
        "beside.py",
    }
    for name in files:
        (tmp_path / name).unlink()  # what runs is the text, not the file
    custom.install(texts)
    assert custom.resolve("network.family", "nets.wide:wide")() == 3
    assert custom.part(texts, ["beside:B"]) == {"beside.py": "B = 2"}


def test_a_changed_text_is_imported_anew_and_has_another_fingerprint() -> None:
    texts = [{"own.py": f"def f(): return {number}"} for number in (1, 2)]
    for number, text in enumerate(texts, start=1):
        custom.install(text)
        assert custom.resolve("solver.kind", "own:f")() == number
    assert custom.fingerprint(texts[0]) != custom.fingerprint(texts[1])
    custom.install({})
    with pytest.raises(ConfigurationError, match="cannot be imported: ModuleNotFoundError"):
        custom.resolve("solver.kind", "own:f")
    assert "own" not in sys.modules


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("def f(:", "own:f", "own.py: invalid syntax"),
        ("TOKEN = 'hf_abcdefghijklmnopqrstuvwxyz'", "own:f", "looks like a credential"),
        ("", "other:f", "there is no module other in "),
        ("", "resnet_dist.networks:Block", "resnet_dist is not a module of your own"),
    ],
)
def test_a_module_that_cannot_travel_is_refused_in_one_line(text: str, name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        custom.collect({"solver.kind": name}, [tmp_path])
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "name", "wrapped"),
    [
        ("solver.kind", "torch.optim:RAdam", "return torch.optim.RAdam(parameters, lr=solver.learning_rate)"),
        ("network.family", "torchvision.models:resnet18", "convert(torchvision.models.resnet18(num_classes=classes))"),
        (
            "network.block",
            "torchvision.models.resnet:BasicBlock",
            "def mine(in_channels, out_channels, stride, network",
        ),
        ("data.source", "torchvision.datasets:FakeData", "return DecodedImages("),
    ],
)
def test_a_package_from_an_index_is_to_be_wrapped_and_that_is_shown(
    setting: str, name: str, wrapped: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        custom.collect({setting: name}, [tmp_path])
    message = str(caught.value)
    assert message.startswith(f"{setting}: {name!r}: {name.partition('.')[0]} is a package from an index")
    assert wrapped in message and "\n" not in message


def test_a_module_that_asks_where_it_lies_is_told_to_give_paths_in_full() -> None:
    custom.install({"own.py": "from pathlib import Path\nHERE = Path(__file__)\ndef f(): pass"})
    with pytest.raises(ConfigurationError, match="imported from their text, so give paths in full"):
        custom.resolve("data.source", "own:f")


def test_versions_of_the_packages_that_a_module_imports_are_recorded() -> None:
    """Also those on which no other part of this program depends: here a test's own."""
    modules = {"own.py": "import os\nimport numpy as np\nfrom yaml.nodes import Node\nimport resnet_dist.extension"}
    assert custom.packages(modules) == {"numpy": np.__version__, "PyYAML": metadata.version("PyYAML")}


def test_names_that_are_none_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"'sgdd' is not known; .*module:callable; did you mean 'sgd'\?"):
        TrainingConfig().override({"solver.kind": "sgdd"})
    with pytest.raises(ConfigurationError, match=r"network\.block: 'squeeze' is not known"):
        TrainingConfig().override({"network.block": "squeeze"})
    with pytest.raises(ConfigurationError, match=r"left out, unless network\.family is 'residual'"):
        TrainingConfig().override({"network.block": "own:Block", "network.family": "plain"})


# Initial weights, and batch norm that is converted


def test_initial_weights_follow_the_seed_and_the_studys_rule_unless_a_module_keeps_its_own() -> None:
    from resnet_dist.networks.construction import make_network
    from resnet_dist.networks.initialisation import initialise

    text = NETWORK.replace("self.linear = ", "self.free = nn.Parameter(torch.randn(3)); self.linear = ")

    def made(text: str, seed: int) -> dict[str, torch.Tensor]:
        custom.install({"own.py": text})
        config = config_of(network__family="own:Network")
        network = make_network(config.network, config.batch_norm, 10, seed)
        initialise(network, config.network, seed)
        return {name: value.clone() for name, value in network.state_dict().items()}

    torch.manual_seed(1)
    first = made(text, seed=0)
    torch.manual_seed(2)
    again, other = made(text, seed=0), made(text, seed=1)
    for name in ("free", "conv.weight", "linear.weight", "norm.weight"):
        assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name])
    assert first["conv.bias"].eq(0).all()
    own = made(text.replace("class Network(nn.Module):", "class Network(nn.Module):\n    own_initialisation = True"), 0)
    assert own["conv.bias"].ne(0).any() and own["norm.weight"].eq(1).all()


def test_converted_batch_norm_keeps_weights_and_statistics() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4, eps=1e-3)))
    network(torch.randn(8, 3, 8, 8))
    with torch.no_grad():
        network[1][0].weight.copy_(torch.arange(4.0))  # type: ignore[index]
    images = torch.randn(5, 3, 8, 8)
    before = network.eval()(images)
    converted = convert(network)
    (layer,) = [module for module in converted.modules() if isinstance(module, nn.BatchNorm2d)]
    assert isinstance(layer, SynchronisedBatchNorm) and layer.eps == 1e-3
    torch.testing.assert_close(converted.eval()(images), before)
    for other in (nn.BatchNorm1d(3), nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False)):
        with pytest.raises(ConfigurationError, match="cannot be converted"):
            convert(nn.Sequential(other))


def test_data_that_is_checked_is_numpys(cache: Path) -> None:
    custom.install({"own.py": DATA})
    assert isinstance(custom_images("own:source").train_images, np.ndarray)
    with pytest.raises(DataError, match="flat colour"):
        from resnet_dist.data.dataset import load_dataset

        load_dataset(config_of(data__source="own:source", data__batch_size=2).data)
