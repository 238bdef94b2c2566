"""How a question is put to a vision-language model: the words around it that each was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

Style = Literal["template", "vicuna", "mistral", "short"]
VICUNA = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions. "
)
Turn = tuple[str, str | None]  # a question and its answer, None: to be given


def prompt(style: Style, processor: Any, turns: Sequence[Turn], images: int = 1) -> str:
    """A conversation up to where the model goes on; its ``images`` stand before the first question.

    ``vicuna``: LLaVA-1.5's and LLaVA-NeXT's on Vicuna, as their authors evaluate. ``mistral``: LLaVA-NeXT on Mistral. ``short``:
    Vicuna's without its first sentences. ``template``: the one that came with the processor.
    """
    if style == "template":
        return _by_template(processor, turns, images)
    seen = f"{processor.image_token}\n" * images
    if style == "mistral":
        asked, told, first = "[INST] {} [/INST]", " {}</s>", ""
    else:
        asked, told, first = "USER: {} ASSISTANT:", " {}</s>", VICUNA if style == "vicuna" else ""
    parts = [first]
    for number, (question, answer) in enumerate(turns):
        parts.append(asked.format(question if number else seen + question))
        parts.append("" if answer is None else told.format(answer))
    return "".join(parts)


def _by_template(processor: Any, turns: Sequence[Turn], images: int) -> str:
    messages: list[dict[str, Any]] = []
    for number, (question, answer) in enumerate(turns):
        seen = [{"type": "image"}] * (0 if number else images)
        messages.append({"role": "user", "content": [*seen, {"type": "text", "text": question}]})
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return str(processor.apply_chat_template(messages, add_generation_prompt=turns[-1][1] is None))
