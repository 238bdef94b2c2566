"""How VQA's official script cleans an answer: punctuation, then numbers, articles and contractions.

After Agrawal et al., "VQA: Visual Question Answering" (2015), and the script that its authors released: its quirks are kept, as
scores are compared with those that others reported.
"""

from __future__ import annotations

import re

MARKS = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMERALS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS)}}
ARTICLES = frozenset({"a", "an", "the"})
MOST_DOTS = 32  # that are taken out: the released script hands over a flag where the count belongs

_ONE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's I'm I've isn't
    it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll
    somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd they'll they're
    they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's who've
    why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""  # keyed by themselves without the apostrophe
_TWO = """
    couldn't've hadn't've mightn't've shouldn't've wouldn't've he'd've I'd've it'd've she'd've somebody'd've someone'd've
    something'd've there'd've they'd've we'd've who'd've you'd've
"""  # keyed by themselves without the first, and without the second


def _contractions() -> dict[str, str]:
    table = {word.replace("'", ""): word for word in _ONE.split()}
    table |= {"let's": "let's", "she's": "she's", "somebody'd": "somebodyd"}  # as released
    for word in _TWO.split():
        first, last = word.index("'"), word.rindex("'")
        table |= {word[:place] + word[place + 1 :]: word for place in (first, last)}
    table |= {"yall'll": "y'all'll", "y'allll": "y'all'll"}
    table |= dict.fromkeys(("yall'd've", "y'alld've", "y'all'dve"), "y'all'd've")
    return table | dict.fromkeys(("'ow'sat", "ow's'at", "'ows'at"), "'ow's'at")


CONTRACTIONS = _contractions()


def plain(text: str) -> str:
    """Line ends and tabs as blanks, none around it."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def cleaned(text: str) -> str:
    """Both steps."""
    words = [NUMERALS.get(word, word) for word in unpunctuated(text).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def unpunctuated(text: str) -> str:
    """Marks go where one stands at a blank, or digits hold a comma between them; else each becomes a blank.

    So do full stops that no digit follows; apostrophes and colons stay.
    """
    told, number = text, re.search(r"\d,\d", text) is not None
    for mark in MARKS:
        beside = f"{mark} " in text or f" {mark}" in text
        told = told.replace(mark, "" if beside or number else " ")
    return re.sub(r"\.(?!\d)", "", told, count=MOST_DOTS)
