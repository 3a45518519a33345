"""What of a configuration concerns the loss that training makes small."""

from dataclasses import dataclass

from resnet_dist.configuration.code import choose, is_custom
from resnet_dist.configuration.sections import Section
from resnet_dist.errors import ConfigurationError


@dataclass(frozen=True)
class LossConfig(Section):
    """The loss of training. Test and validation losses are the plain cross-entropy, whatever is trained with."""

    kind: str = "cross_entropy"
    """`cross_entropy`, as in the study; or one of your own, as `module:callable`."""
    label_smoothing: float = 0.0
    """Part of each label that is spread evenly over all classes (arXiv:1512.00567: 0.1)."""

    def check(self) -> None:
        """Refuse losses that are not known."""
        choose("loss.kind", self.kind, ("cross_entropy",))
        self.require("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and less than 1")
        if is_custom(self.kind) and self.label_smoothing:
            raise ConfigurationError(
                f"loss.label_smoothing: {self.label_smoothing} has no effect with loss.kind {self.kind!r}; leave it out"
            )
