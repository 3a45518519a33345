"""Which test images networks get wrong, and what another test set of this size could have said."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_dist.records.trial_record import decode_mask
from tune_jobs.report.statistics import Comparison
from tune_jobs.results.trials import TrialResults

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_NAMED = 20


def wrong_images(trials: Iterable[TrialResults]) -> "NDArray[np.bool_] | None":
    """What each of these finished trials gets wrong, bool [trials, images]; None unless all know it of one test set.

    Trials of earlier versions do not.
    """
    import numpy as np

    results = [trial.result for trial in trials]
    counts = {result.get("test_images") for result in results}
    if len(counts) != 1 or None in counts or not all("wrong_images" in result for result in results):
        return None
    try:
        return np.stack([decode_mask(result["wrong_images"], result["test_images"]) for result in results])
    except (ValueError, TypeError):  # the record is another version's, or damaged
        return None


def on_other_images(
    comparison: Comparison, first: "NDArray[np.bool_]", second: "NDArray[np.bool_]", paired: bool
) -> Comparison:
    """A comparison of two rows with the error that the choice of test images adds.

    first, second: what the runs of each row get wrong, bool [runs, images]; `paired`: by equal seeds. The difference by
    image varies from image to image, and by the noise of so few runs, which `comparison` has in it already. No
    interval becomes narrower: images that add next to nothing would lend it degrees of freedom.
    """
    a, b = first.astype(float), second.astype(float)
    by_image = a.mean(0) - b.mean(0)
    noise = (a - b).var(0, ddof=1) / len(a) if paired else a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b)
    images = max(0.0, float(by_image.var(ddof=1) - noise.mean())) / len(by_image)
    variance = comparison.error**2 + images
    degrees = comparison.degrees * (variance / comparison.error**2) ** 2  # Satterthwaite; there are many images
    found = Comparison(comparison.difference, variance**0.5, degrees)
    return found if found.half_width > comparison.half_width else comparison


@dataclass(frozen=True)
class Images:
    """How often each test image is taken for another class than its own."""

    trials: int
    wrong: tuple[int, ...]
    """Trials that get it wrong, by its position in the test set."""

    @property
    def sentence(self) -> str:
        """How many images all networks get wrong, and how many none."""
        always = [index for index, count in enumerate(self.wrong) if count == self.trials]
        named = ", ".join(map(str, always[:_MOST_NAMED])) + (", …" if len(always) > _MOST_NAMED else "")
        are = "is" if len(always) == 1 else "are"
        return (
            f"Of {len(self.wrong):,} test images, {len(always):,} {are} taken for another class by all {self.trials} "
            f"networks{f' (positions {named})' if always else ''}, and {self.wrong.count(0):,} by none; images.csv has "
            "the count of each."
        )


def images_of(trials: Sequence[TrialResults]) -> Images | None:
    """The images of all finished trials; None unless two or more know them of one data set."""
    done = [trial for trial in trials if trial.counts]
    data = {trial.provenance.get("data_fingerprint") for trial in done}
    if len(done) < 2 or len(data) != 1 or (wrong := wrong_images(done)) is None:
        return None
    return Images(len(done), tuple(wrong.sum(0).tolist()))
