"""Lengths of time in words."""

import pytest

from resnet_dist.durations import in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0.4 seconds"),
        (1, "1 second"),
        (90, "90 seconds"),
        (200, "3.3 minutes"),
        (7100, "2 hours"),
        (100_000, "28 hours"),
        (1220 * 3600, "51 days"),
        (3e9, "34,722 days"),
    ],
)
def test_a_length_of_time_is_said_in_the_largest_unit_of_which_there_are_two(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
