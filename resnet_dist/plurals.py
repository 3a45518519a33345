"""Words for numbers."""


def counted(number: int, noun: str) -> str:
    """A number of things: `1 trial`, `2 trials`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
