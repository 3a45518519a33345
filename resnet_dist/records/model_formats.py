"""Trained networks in formats that other programs read: torchvision's state dicts, safetensors and ONNX."""

import importlib.util
import io
import json
import logging
import warnings

import torch
from torch import Tensor, nn

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError, first_line
from resnet_dist.networks.state_dicts import to_torchvision
from resnet_dist.records.model_file import Model, with_counts
from resnet_dist.records.weights_file import STANDARDISATION

ONNX_PACKAGES = ("onnx", "onnxscript")


def torchvision_file(model: Model) -> bytes:
    """A state dict that the `torchvision.models` network of this depth and number of classes loads, as `torch.save`
    writes it. Raises a `UserError` where torchvision has no such network.
    """
    if said := _not_torchvisions(model.config):
        raise UserError(f"--format torchvision: torchvision has no such network ({said}); give safetensors or onnx")
    state = to_torchvision(with_counts(model.network, 0), model.config.network)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def safetensors_file(model: Model) -> bytes:
    """The weights by our names, what standardises images as `standardise.mean` and `standardise.std`, and settings and
    class names, as JSON, in the metadata.
    """
    import safetensors.torch

    tensors = {name: value.contiguous() for name, value in model.network.state_dict().items()}
    if model.mean is not None:
        tensors[f"{STANDARDISATION}mean"] = model.mean.contiguous()
        tensors[f"{STANDARDISATION}std"] = torch.tensor(model.std, dtype=torch.float64)
    described = {"config": json.dumps(model.config.to_dict()), "classes": json.dumps(model.classes)}
    return bytes(safetensors.torch.save(tensors, described))


def onnx_file(model: Model) -> bytes:
    """A graph `images` → `logits`: raw values from 0 to 255, float32 [N, 3, S, S], are standardised in it.

    Raises a `UserError` if torch's exporter cannot express the network, or lacks the packages that it needs.
    """
    if lacking := [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(f"--format onnx: needs {' and '.join(lacking)}; pip install 'resnet-dist[onnx]'")
    size = model.config.data.size
    network = _Standardised(model).eval()
    images = torch.zeros(2, 3, size, size)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(
                network,
                (images,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        return bytes(program.model_proto.SerializeToString())
    except Exception as error:  # of whatever the network's own code does, and the exporter makes of it
        raise UserError(f"--format onnx: torch's exporter cannot express this network: {first_line(error)}") from error


class _Standardised(nn.Module):
    """A network in float32 with what standardises its images before it."""

    mean: Tensor
    scale: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.network.float()
        mean = torch.zeros(()) if model.mean is None else model.mean.float()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", torch.tensor(1 / model.std, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] → logits [N, classes]."""
        return self.network((images - self.mean) * self.scale)  # type: ignore[no-any-return]


def _not_torchvisions(config: TrainingConfig) -> str:
    """What of a network torchvision's lack; empty if it has it."""
    network = config.network
    wanted = {
        "family": "imagenet-residual",
        "shortcut": "B",
        "relu_after_addition": True,
        "batch_norm_position": "before",
        "stem_and_head": "paper",
        "width": 64,
        **({"bottleneck_stride": "3x3"} if network.bottlenecks else {}),
    }
    for name, value in wanted.items():
        if getattr(network, name) != value:
            return f"network.{name} is {getattr(network, name)}, and its networks have {value}"
    return "" if config.batch_norm.eps == 1e-5 else f"batch_norm.eps is {config.batch_norm.eps}, and theirs 1e-05"
