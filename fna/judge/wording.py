"""What a judge reads, and how its answer is read.

As in LLaVA-Bench (Liu et al. 2023, arXiv 2304.08485, code Apache-2.0) a judge without eyes is told what the image holds, the
question, and two answers, and gives each a score from 1 to 10 in its first line; the words are our own.
"""

from __future__ import annotations

from collections.abc import Sequence

LOW, HIGH = 1.0, 10.0
SYSTEM = "You compare two answers to a question about an image and are fair to both."
RULES = (
    "Judge how helpful, relevant, accurate and detailed each of the two answers is. You cannot see the image: rely on what is said "
    "of it above, where anything is. Which answer comes first says nothing about it, nor does length alone.\n"
    "Your first line must hold two numbers from 1 to 10 with a blank between them and nothing else: the score of the first answer, "
    "then that of the second. Explain them in the lines below."
)


def messages(context: str, question: str, first: str, second: str) -> list[dict[str, str]]:
    """One call: the image in words (may be empty), the question, two answers."""
    seen = f"[The image]\n{context}\n\n" if context else ""
    asked = f"[The question]\n{question}\n\n"
    answers = f"[First answer]\n{first}\n[End of the first answer]\n\n[Second answer]\n{second}\n[End of the second answer]\n\n"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{seen}{asked}{answers}[Your task]\n{RULES}"}]


def scores(text: str) -> tuple[float, float] | None:
    """The two numbers of the first line; None where it holds anything else, or numbers beyond 1 and 10."""
    lines = text.strip().splitlines()
    try:
        found = [float(word) for word in lines[0].replace(",", " ").split()] if lines else []
    except ValueError:
        return None
    if len(found) != 2 or not all(LOW <= score <= HIGH for score in found):  # nan is beyond both
        return None
    return found[0], found[1]


def rough_tokens(texts: Sequence[str]) -> int:
    """About how many tokens texts are, for an estimate beforehand: four letters of English each."""
    return sum(len(text) for text in texts) // 4
