"""Sentences that differ in subject, verb and object, so that their embeddings have neighbors of all distances."""

import random

_SUBJECTS = """the bakery|a young doctor|the central bank|our neighbor|an old ship|the football team|a small company|
the museum|her grandmother|the city council|a famous writer|the river|the school|an engineer|
the airline|a farmer|the judge|the orchestra|a stray cat|the laboratory|the prime minister|
a software update|the hotel|the mountain guide|a pharmacist"""
_VERBS = """opened|closed|sold|repaired|lost|discovered|described|visited|refused|painted|ordered|cancelled|
tested|praised|rebuilt|borrowed|cleaned|photographed|criticized|delivered|invented|moved|celebrated|
financed|missed"""
_OBJECTS = """a new bridge|the last train|three loaves of bread|an expensive violin|the annual report|a vaccine|
the old library|a loan|the world record|a telescope|the border|a garden|the contract|a broken window|
the first chapter|a rare stamp|the power plant|a wedding cake|the parking lot|a solar panel|
the final match|an orange bicycle|the tax reform|a recipe|the harbor"""
_ENDS = """in the morning|before the election|near the station|without telling anyone|after a long debate|
for the third time|in heavy rain|because prices rose|during the holidays|in spite of the warnings|
for half the price|on the other side of town|as soon as possible|with the help of volunteers|
at the end of the season|to everyone's surprise|two years ago|by mistake"""


def sentences(count: int, seed: int = 0) -> list[str]:
    """Return different sentences.

    Args:
        count: How many, at most some 200,000.
        seed: Of the random choice.

    Returns:
        The sentences.
    """
    parts = [" ".join(words.split()).replace("| ", "|").split("|") for words in (_SUBJECTS, _VERBS, _OBJECTS, _ENDS)]
    total = 1
    for part in parts:
        total *= len(part)
    found = []
    for number in random.Random(seed).sample(range(total), count):
        chosen = []
        for part in parts:
            number, at = divmod(number, len(part))
            chosen.append(part[at])
        found.append(" ".join(chosen).capitalize() + ".")
    return found
