"""What code of the user's own must hold for the laws to hold: tried in this process, in float64, in a few seconds.

Law 1 is tried as it stands: a batch as a whole, and the same batch cut into shards, one of them without an image.
"""

import copy
import threading
from typing import Any

import torch
from torch import Tensor, nn

from resnet_dist import custom_code as custom
from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.augmentation import OWN_NUMBERS, transformed
from resnet_dist.errors import ConfigurationError, UserError
from resnet_dist.networks.batch_norm import SynchronisedBatchNorm
from resnet_dist.networks.construction import make_network
from resnet_dist.networks.initialisation import initialise
from resnet_dist.records import checkpoints
from resnet_dist.training.exact import VirtualShards, gradient_of
from resnet_dist.training.gradients import own_losses
from resnet_dist.training.solvers import make_solver
from resnet_dist.workers import alone

CLASSES = 10
IMAGES = 5
SHARDS = 8
"""More than images: some shards have none, as workers do at the end of an epoch."""

PATIENCE = 60.0
"""Seconds after which shards that do not meet at a batch norm are taken to have parted."""


def check_code(config: TrainingConfig) -> None:
    """Raise a `ConfigurationError` of one line if code that a configuration names breaks a law.

    Its code must have been installed. A data source is checked when it is decoded.
    """
    names = custom.named(config)
    for setting in ("network.family", "network.block"):
        if setting in names:
            _guarded(setting, names[setting], _check_network, config)
    if "data.transform" in names:
        _guarded("data.transform", names["data.transform"], _check_transform, config)
    if "loss.kind" in names:
        _guarded("loss.kind", names["loss.kind"], _check_loss, config)
    if "solver.kind" in names:
        _guarded("solver.kind", names["solver.kind"], _check_solver, config)


def _guarded(setting: str, name: str, check: Any, config: TrainingConfig) -> None:
    place = f"{setting}: {name!r}"
    try:
        with torch.random.fork_rng(devices=[]):
            check(config)
    except UserError as error:
        named = isinstance(error, ConfigurationError) and error.setting
        raise ConfigurationError(str(error) if named else f"{place}: {error}", setting) from None
    except Exception as error:
        raise ConfigurationError(f"{place}: fails on a batch of {IMAGES} images: {custom.one_line(error)}") from error


def _check_network(config: TrainingConfig) -> None:
    network = make_network(config.network, config.batch_norm, CLASSES, config.run.seeds[0], config.data.size)
    _check_layers(network)
    initialise(network, config.network, config.run.seeds[0])
    network = network.to(torch.float64).train()
    images = torch.randn(
        (IMAGES, 3, config.data.size, config.data.size), dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    images = images.contiguous(memory_format=torch.channels_last)
    whole = copy.deepcopy(network)
    logits = _forward(whole, images, seed=1)
    if logits.shape != (IMAGES, CLASSES):
        raise ConfigurationError(
            f"gives logits of shape {list(logits.shape)}, not [images, classes] = [{IMAGES}, {CLASSES}]"
        )
    if not logits.isfinite().all():
        raise ConfigurationError("gives logits that are not finite at its initial weights")
    if not torch.equal(_forward(copy.deepcopy(network), images, seed=2), logits):
        raise ConfigurationError(
            "draws random numbers in its forward pass, so that a run could not be resumed or shared by workers to the "
            "same result (laws 1 and 2); take dropout and the like out"
        )
    logits.logsumexp(1).sum().backward()
    for name, parameter in whole.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            raise ConfigurationError(
                f"parameter {name} has no part in the logits, and workers would wait for it; remove it"
            )
    _check_shards(network, whole, images, logits.detach().logsumexp(1).sum().item())
    _check_evaluation(whole, images)


def _forward(network: nn.Module, images: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return network(images)  # type: ignore[no-any-return]


def _check_layers(network: nn.Module) -> None:
    for name, module in network.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, SynchronisedBatchNorm):
            raise ConfigurationError(
                f"layer {name} is a {kind}, whose statistics are each worker's own (law 1); use "
                "SynchronisedBatchNorm of resnet_dist.extension, or pass the network through its convert"
            )
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            raise ConfigurationError(
                f"layer {name} is an {kind} with running statistics, which are each worker's own (law 1); "
                "leave them out"
            )


def _check_shards(network: nn.Module, whole: nn.Module, images: Tensor, expected: float) -> None:
    """Law 1: shards of the batch give the loss and the gradients of the whole."""
    workers = alone("cpu")
    shards = VirtualShards(network, workers.shards(SHARDS), workers)
    pieces = [images[start:stop] for start, stop in shards.shards.bounds(0, IMAGES)]
    patience = threading.Timer(PATIENCE, shards.abandon)
    patience.start()
    try:
        losses = shards.forward_backward(lambda replica, index: replica(pieces[index]).logsumexp(1).sum())
        shards.reduce_gradients()
    except Exception as error:
        raise ConfigurationError(
            f"cannot be shared by workers, of whom some have no image in a batch (law 1): {custom.one_line(error)}"
        ) from error
    finally:
        patience.cancel()
    differs = [
        name
        for (name, parameter), reference in zip(network.named_parameters(), whole.parameters(), strict=True)
        if not torch.allclose(gradient_of(parameter), gradient_of(reference), rtol=1e-6, atol=1e-9)
    ]
    if abs(losses.sum().item() - expected) > 1e-9 * (1 + abs(expected)) or differs:
        raise ConfigurationError(
            "computes something else from a batch that workers share than from the whole (law 1): something in it, "
            "other than SynchronisedBatchNorm, looks at more than one image"
        )


def _check_evaluation(network: nn.Module, images: Tensor) -> None:
    network.eval()
    with torch.no_grad():
        together = network(images)
        apart = torch.cat([network(images[:2]), network(images[2:])])
    if not torch.allclose(together, apart, rtol=1e-9, atol=1e-12):
        raise ConfigurationError("lets an image's logits depend on its neighbours in evaluation (law 1)")


def _check_transform(config: TrainingConfig) -> None:
    own = custom.resolve("data.transform", config.data.transform)
    generator = torch.Generator().manual_seed(1)
    shape = (IMAGES, 3, config.data.size, config.data.size)
    images = torch.randint(0, 256, shape, generator=generator).double()
    numbers = torch.rand(IMAGES, OWN_NUMBERS, dtype=torch.float64, generator=generator)
    before = images.clone()
    made = transformed(own, images, numbers)
    if not torch.equal(images, before):
        raise ConfigurationError("writes into the images that it is given; give others back")
    if not made.isfinite().all():
        raise ConfigurationError("gives images that are not finite")
    if not torch.equal(transformed(own, images, numbers), made):
        raise ConfigurationError(
            "draws random numbers of its own, so that a run could not be resumed to the same result (law 2); use those "
            f"that it is given, {OWN_NUMBERS} for each image"
        )
    apart = torch.cat([transformed(own, images[at], numbers[at]) for at in (slice(0, 2), slice(2, None), slice(0, 0))])
    if not torch.allclose(made, apart, rtol=1e-9, atol=1e-9):
        raise ConfigurationError("lets an image depend on its neighbours in the batch, which workers share (law 1)")


def _check_loss(config: TrainingConfig) -> None:
    own = custom.resolve("loss.kind", config.loss.kind)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(IMAGES, CLASSES, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.arange(IMAGES)
    losses = own_losses(own, logits, labels)
    if not losses.requires_grad:
        raise ConfigurationError("has no gradient with respect to the logits")
    losses.sum().backward()
    assert logits.grad is not None
    if not (losses.isfinite().all() and logits.grad.isfinite().all()):
        raise ConfigurationError("gives losses or gradients that are not finite")
    if not torch.equal(own_losses(own, logits, labels), losses):
        raise ConfigurationError("draws random numbers, so that a run could not be resumed to the same result (law 2)")
    apart = torch.cat([own_losses(own, logits[:2], labels[:2]), own_losses(own, logits[2:], labels[2:])])
    if not torch.allclose(losses, apart, rtol=1e-9, atol=1e-12):
        raise ConfigurationError("lets an image's loss depend on its neighbours, which workers share (law 1)")
    if own_losses(own, logits[:0], labels[:0]).shape != (0,):
        raise ConfigurationError("must give no loss for no image: some workers have none in a batch")


def _check_solver(config: TrainingConfig) -> None:
    assert is_custom(config.solver.kind)
    first, weights = _started(config, seed=1)
    for group in first.param_groups:
        if "lr" not in group:
            raise ConfigurationError(
                "its param_groups have no 'lr', which is where the schedule puts the learning rate"
            )
    before = weights.detach().clone()
    _steps(first, weights, range(2))
    if torch.equal(weights, before):
        raise ConfigurationError("does not change the weights in two steps")
    if not weights.isfinite().all():
        raise ConfigurationError("makes weights that are not finite in two steps")
    again, others = _started(config, seed=2)
    _steps(again, others, range(2))
    if not torch.equal(weights, others):
        raise ConfigurationError("draws random numbers, so that workers would part (laws 1 and 2); take them out")
    # Law 2: a checkpoint after two steps, taken up by another process, gives the third and fourth.
    saved = checkpoints.decode(checkpoints.encode({"solver": first.state_dict(), "weights": weights.detach()}))
    resumed, taken_up = _started(config, seed=3)
    with torch.no_grad():
        taken_up.copy_(saved["weights"])
    resumed.load_state_dict(saved["solver"])
    for solver, parameter in ((first, weights), (resumed, taken_up)):
        _steps(solver, parameter, range(2, 4))
    if not torch.equal(weights, taken_up):
        raise ConfigurationError(
            "goes on differently after a checkpoint (law 2): all that it remembers must be in its state_dict"
        )


def _started(config: TrainingConfig, seed: int) -> tuple[torch.optim.Optimizer, nn.Parameter]:
    torch.manual_seed(seed)
    weights = nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4))
    return make_solver(config.solver, [weights]), weights


def _steps(solver: torch.optim.Optimizer, weights: nn.Parameter, steps: range) -> None:
    for step in steps:
        weights.grad = torch.sin(weights.detach() * (step + 1)) + 0.1
        solver.step()
