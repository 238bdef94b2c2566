"""Which tokens are taken away, how, and in which blocks: what ``conf/mask/*.yaml`` instantiates.

The default is the FNA authors' best (arXiv 2507.16018): massive and artifact tokens, masked as keys, in the last block only. In the
middle blocks the same does great harm; the start-block sweep (``experiment=masking_start_block``) shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fna.errors import UserError
from fna.masking.masked import FOUND, Category, Found, Masked, Mode, Pattern, Watched, check_words
from fna.masking.rules import ClsProxy, Rule, RuleName, make_rule
from fna.masking.sinks import Window, sink_set
from fna.ops.contract import Attention, Memo, not_traced
from fna.ops.exact import Exact
from fna.values import Count, NotNegative, Positive

Rerun = Callable[[Memo, Tensor | None], Memo]


@dataclass(frozen=True)
class Masking:
    """Tokens found in block ``detect`` (or by looking ahead to it) and taken away in ``blocks``.

    ``tokens``: massive, artifact or both. ``rule`` says what is massive, ``threshold`` sets its knob (None: its source's value).
    Artifacts are found by iterating: blocks ``first`` to ``detect`` are run again with the set found so far taken away, at most
    ``cap`` times; ``factor``, ``least`` and ``stands`` are as in `ClsProxy` (the authors: 1, 0, 0). ``detect`` should be the block
    after the growth (the runner calibrates a None; without it 13/24 of the depth is taken, the authors' block in ViT-L), ``first``
    lies 4/24 of the depth before it. ``unmasked`` asks the runner for the variant without the mask as a third column.
    """

    tokens: Category = "both"
    mode: Mode = "mask"
    pattern: Pattern = "type1"
    blocks: str | int | Sequence[int] = -1
    rule: RuleName | Rule = "cls_proxy"
    threshold: Positive | None = None
    detect: int | None = None
    first: int | None = None
    factor: NotNegative = 1.0
    least: NotNegative = 4.0
    stands: NotNegative = 2.0
    cap: Count = 20
    unmasked: bool = False
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_words(self.mode, self.pattern)
        Found(self.tokens)
        self.judge  # noqa: B018  an unknown rule is refused here
        if self.cap < 1:
            raise ValueError(f"mask.cap={self.cap}: must be at least 1.")

    @property
    def judge(self) -> Rule:
        """The rule that says what is massive."""
        if not isinstance(self.rule, str):
            return self.rule
        rule = make_rule(self.rule, self.threshold)
        return replace(rule, least=self.least, stands=self.stands) if isinstance(rule, ClsProxy) else rule

    def check(self, depth: int) -> None:
        """Raise `UserError` for blocks that a model of ``depth`` blocks does not have, or that cannot be calibrated."""
        if self.window(depth)[1] == 0 and self.rule == "log_gap" and self.threshold is None:
            raise UserError("mask.rule=log_gap mask.detect=0: no block comes before it to calibrate on; give mask.threshold.")

    def window(self, depth: int) -> tuple[int, int]:
        """(first, detect) for a model of ``depth`` blocks. Raises `UserError` where they are not there or run backwards."""
        detect = depth * 13 // 24 if self.detect is None else self.detect
        first = max(0, detect - max(1, depth * 4 // 24)) if self.first is None else self.first
        if not 0 <= first <= detect < depth:
            raise UserError(f"mask.first={first}, mask.detect={detect}: give 0 <= first <= detect <= {depth - 1}.")
        return first, detect

    def looks_ahead(self, blocks: Sequence[int], depth: int) -> bool:
        """Whether the tokens cannot be known from what a single pass has already computed when ``blocks`` ask for them."""
        return self.tokens != "massive" or self.window(depth)[1] > min(blocks, default=depth)

    def ops(self, plan: Mapping[int, Attention], blocks: Sequence[int], depth: int, name: str = FOUND) -> dict[int, Attention]:
        """``plan`` with masking in ``blocks`` and detection where it has to be; blocks without an op get exact attention.

        No ``blocks``: the tokens are found, and nothing is done to them. ``name``: under which they lie in the memo; a mask takes
        away those under `FOUND`.
        """
        first, detect = self.window(depth)
        ops = dict(plan)
        for block in blocks:
            ops[block] = Masked(ops.get(block, Exact()), Found(self.tokens), self.mode, self.pattern)
        if self.looks_ahead(blocks, depth):
            for block in range(first, detect + 1):
                ops[block] = Window(ops.get(block, Exact()), self.judge, detect, self.mode, self.stands, name)
        else:
            ops[detect] = Watched(ops.get(detect, Exact()), self.judge, name)
        return ops

    def nothing_found(self, batch: int, tokens: int) -> Memo:
        """What lies in the memo where no token is massive or a sink."""
        nothing = torch.zeros(batch, tokens, dtype=torch.bool)
        return {(FOUND, "massive"): nothing, (FOUND, "sinks"): nothing}

    def find(self, hidden: Tensor, rerun: Rerun, name: str = FOUND) -> Memo:
        """What a look-ahead leaves in the memo of the running pass, under ``name``.

        ``hidden`` ``[B, N, D]``: the residual stream entering block ``first``. ``rerun(memo, images)`` runs the window beside the
        pass with that memo, on some images only if their numbers ``[b]`` are given, and returns the memo.
        """
        not_traced("mask: which tokens are found", hidden)
        nothing = torch.zeros(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        seen = rerun({(name, "hide"): nothing}, None)
        massive = seen[name, "massive"]
        found: dict[Any, Any] = {(name, "massive"): massive}
        if self.tokens == "massive":
            return found

        def attention(images: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
            # The first round takes nothing away: that is the pass just made.
            if not bool(taken.any()):
                return seen[name, "given"][images], seen[name, "grown"][images]
            again = rerun({(name, "hide"): taken, (name, "massive"): massive[images]}, images)
            return again[name, "given"], again[name, "grown"]

        sinks = sink_set(attention, seen[name, "eligible"], factor=self.factor, least=self.least, cap=self.cap)
        return found | {(name, "sinks"): sinks.found, (name, "order"): sinks.order}
