"""What recipes later than the study's add to an update: smooth labels, clips, averages, float16, a loss of one's own.

Laws 1 and 2 have variants with them; here each is held against torch's own, or against arithmetic written out.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnet_dist.configuration.loss import LossConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.custom_code import collect, install
from resnet_dist.data.batches import Batch
from resnet_dist.errors import ConfigurationError
from resnet_dist.training.custom_checks import check_code
from resnet_dist.training.evaluation import Evaluation
from resnet_dist.training.exact import gradient_of
from resnet_dist.training.gradients import Loss
from resnet_dist.training.loss_scale import LossScale
from resnet_dist.training.numerics import settings_of_run
from resnet_dist.training.state import Training
from resnet_dist.workers import alone
from tests.small_runs import small_config, small_dataset


def training_of(**settings: Any) -> Training:
    training = Training(small_config(**settings), small_dataset(), alone("cpu"))
    training.start_epoch()
    return training


def evaluated(training: Training) -> Evaluation:
    return training.test.evaluate(training.evaluated, training.autocast())


def test_smooth_labels_give_torchs_loss_and_leave_the_test_loss_alone() -> None:
    batch = Batch(torch.randn(6, 10, dtype=torch.float64), torch.arange(6))
    loss = Loss("float64", torch.device("cpu"), LossConfig(label_smoothing=0.1))(nn.Identity(), batch, 12)
    target = 0.9 * F.one_hot(batch.labels, 10).double() + 0.01
    expected = -(target * batch.images.log_softmax(1)).sum() / 12
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    plain, smooth = training_of(), training_of(loss__label_smoothing=0.1)
    assert plain.test.evaluate(plain.network, plain.autocast()) == smooth.test.evaluate(
        smooth.network, smooth.autocast()
    )


@pytest.mark.parametrize("precision", ["float64", "float16"])
def test_gradients_are_scaled_down_to_the_norm_that_is_given_and_never_up(precision: str) -> None:
    """In float16 it is the norm of the gradients themselves, not of those of the scaled loss."""
    norms = []
    for clip in (0, 0.01, 1e6):
        training = training_of(solver__gradient_clip=clip, run__precision=precision)
        if training.loss_scale.enabled:
            training.loss_scale.value = 2.0**10
        training.update()
        norms.append(nn.utils.get_total_norm([gradient_of(p) for p in training.network.parameters()]).item())
    large, small, left = norms
    assert 0.1 < large == left
    assert small == pytest.approx(0.01, rel=1e-12 if precision == "float64" else 1e-5)


def test_the_average_is_that_of_weights_and_running_statistics_and_is_what_counts() -> None:
    training = training_of(solver__average_decay=0.75)
    average = {name: value.clone() for name, value in training.network.state_dict().items()}
    for _ in range(6):
        training.update()
        for name, value in training.network.state_dict().items():
            average[name] = 0.75 * average[name] + 0.25 * value
    for name, value in training.evaluated.state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=1e-13, atol=1e-15)
    plain = training_of()
    plain.network.load_state_dict(training.evaluated.state_dict())
    expected = evaluated(plain).loss
    assert training.epoch_line(training.epoch_losses(), 1, None)["test_loss"] == pytest.approx(expected, rel=1e-12)


def test_the_scale_of_a_loss_halves_at_an_overflow_and_doubles_after_two_thousand_updates_without() -> None:
    network, scale, scaler = nn.Linear(2, 1), LossScale(enabled=True), torch.amp.GradScaler("cpu")
    solver = torch.optim.SGD(network.parameters(), lr=0.0)
    for step in range(4500):
        infinite = step in (0, 1, 2300)
        scaler.scale(torch.zeros(()))
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, float("inf") if infinite else 3.0 * scale.value)
        scaler.step(solver)
        scaler.update()
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, float("inf") if infinite else 3.0 * scale.value)
        assert scale.unscale(network) is not infinite
        assert infinite or all((p.grad == 3).all() for p in network.parameters() if p.grad is not None)
        assert scale.value == scaler.get_scale()
    assert scale.value == 2.0**16 / 4 * 2 / 2 * 2


@pytest.mark.parametrize("exact", [False, True])
def test_in_float16_training_goes_on_after_an_overflow_as_if_it_had_not_been_tried(exact: bool) -> None:
    with settings_of_run(exact):
        training = training_of(run__precision="float16", run__exact=exact, data__batch_size=8)
        weights = copy.deepcopy(training.network.state_dict())
        training.loss_scale.value = 2.0**40  # gradients of float16 end at 65,504
        training.update()
        after = training.network.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in weights.items() if "running" not in name)
        assert training.loss_scale.value == 2.0**39
        training.loss_scale.value = 2.0**10
        reference = training_of(run__precision="float32", run__exact=exact, data__batch_size=8)
        reference.load(training.state())
        for _ in range(5):
            assert training.update().sum().item() == pytest.approx(reference.update().sum().item(), rel=0.02)
        resumed = training_of(run__precision="float16", run__exact=exact, data__batch_size=8)
        resumed.load(training.state())
        assert resumed.loss_scale.state() == {"value": 2.0**10, "since": 5}
        assert torch.equal(resumed.update(), training.update())


FOCAL = """
import torch
import torch.nn.functional as F

def focal(logits, labels):
    losses = F.cross_entropy(logits, labels, reduction="none")
    return (1 - torch.exp(-losses)) ** 2 * losses
"""
WRONG = {
    "mean": ("F.cross_entropy(logits, labels)", "gives [], not the loss of each image, [5]"),
    "neighbours": ("F.cross_entropy(logits - logits.mean(0), labels, reduction='none')", "depend on its neighbours"),
    "random": ("F.cross_entropy(logits, labels, reduction='none') * torch.rand(())", "draws random numbers"),
    "detached": ("F.cross_entropy(logits.detach(), labels, reduction='none')", "has no gradient"),
    "infinite": ("F.cross_entropy(logits, labels, reduction='none') / 0", "are not finite"),
    "kind": ("3", "gives int, not the loss of each image"),
}


def own_loss(folder: Path, text: str) -> TrainingConfig:
    (folder / "losses.py").write_text(text)
    config = small_config(loss__kind="losses:focal")
    install(collect({"loss.kind": "losses:focal"}, [folder]))
    return config


def test_a_loss_of_ones_own_is_trained_with(tmp_path: Path) -> None:
    config = own_loss(tmp_path, FOCAL)
    check_code(config)
    training = Training(config, small_dataset(), alone("cpu"))
    training.start_epoch()
    reference = training_of()
    drawn = reference.batches.drawn(range(1))[0]
    ((batch,),) = reference.batches.parts(drawn)
    losses = F.cross_entropy(reference.network(batch.images), batch.labels, reduction="none")
    expected = ((1 - torch.exp(-losses)) ** 2 * losses).mean().item()
    assert training.update().item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("fault", WRONG)
def test_a_loss_that_breaks_a_law_is_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    text, said = WRONG[fault]
    config = own_loss(tmp_path, f"import torch, torch.nn.functional as F\ndef focal(logits, labels): return {text}\n")
    with pytest.raises(ConfigurationError) as error:
        check_code(config)
    assert said in str(error.value) and str(error.value).startswith("loss.kind: 'losses:focal': ")


def test_a_loss_of_ones_own_takes_no_label_smoothing() -> None:
    with pytest.raises(ConfigurationError, match=r"loss\.label_smoothing: 0\.1 has no effect with loss\.kind"):
        small_config(loss__kind="losses:focal", loss__label_smoothing=0.1)
