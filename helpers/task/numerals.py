"""Small numbers as words, as prompts write them and judges repeat them."""

NUMBERS = "zero one two three four five six seven eight nine ten".split()


def number(n: int) -> str:
    """`three` for 3; digits from 11 on."""
    if n < len(NUMBERS):
        return NUMBERS[n]
    return str(n)


def in_words(n: int, noun: str) -> str:
    """`two sentences`, `one sentence`."""
    plural = "" if n == 1 else "s"
    return f"{number(n)} {noun}{plural}"
