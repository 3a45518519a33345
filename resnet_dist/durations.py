"""Lengths of time in words."""

_UNITS = (("day", 86_400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))


def in_words(seconds: float) -> str:
    """`51 days`, `3.5 hours`, `40 seconds`: in the largest unit of which there are two, with two digits."""
    for name, size in _UNITS:
        count = seconds / size
        if count >= 1.95 or name == "second":
            shown = f"{count:,.0f}" if count >= 9.95 else f"{count:.1f}".removesuffix(".0")
            return f"{shown} {name}{'' if shown == '1' else 's'}"
    raise AssertionError("seconds are the last unit")
