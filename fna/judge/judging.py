"""Answers judged beside reference answers: which calls that takes, making them, and what they come to.

A judgement is named by all that decides it: the judge and its settings, the question, what is said of the image, both answers,
their order and the sample's number. It is asked for once, whichever run or variant needs it: two variants that answer alike are
judged alike, and cost one call.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from fna.errors import UserError
from fna.judge.endpoint import Calls, Endpoint, Refused, Reply, Unheard
from fna.judge.ledger import Ledger
from fna.judge.wording import messages, rough_tokens, scores
from fna.values import Count, between, counted

ASKS = 3  # times that a judge is asked for scores before what it says is taken for a failure
IN_A_ROW = 3  # calls without an answer after which no more are made; before the first answer one is enough


@dataclass(frozen=True)
class Matter:
    """What is to be judged: ``key`` names the question, ``context`` says in words what its image holds."""

    key: str
    context: str
    question: str
    reference: str
    answer: str


@dataclass(frozen=True)
class Call:
    """One judgement: the answer first or second, and the number of the sample."""

    matter: Matter
    answer_first: bool
    sample: int

    def messages(self) -> list[dict[str, str]]:
        """What the judge reads."""
        both = [self.matter.reference, self.matter.answer]
        first, second = both[::-1] if self.answer_first else both
        return messages(self.matter.context, self.matter.question, first, second)


@dataclass
class Verdict:
    """What was said of one answer: ``scores`` (of the reference, of the answer) of each judgement that holds them; ``failed``: why
    the others do not; tokens and calls that all took."""

    scores: list[tuple[float, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    tokens_in: int = 0
    tokens_out: int = 0
    calls: int = 0

    @property
    def reference(self) -> float:
        """Mean score of the reference answer, 0 where nothing was judged."""
        return sum(one for one, _ in self.scores) / len(self.scores) if self.scores else 0.0

    @property
    def answer(self) -> float:
        """Mean score of the answer, 0 where nothing was judged."""
        return sum(one for _, one in self.scores) / len(self.scores) if self.scores else 0.0


@dataclass(frozen=True)
class Plan:
    """What judging would take: calls in all, those kept from before, those to be made, and about how many tokens at most."""

    calls: int
    kept: int
    tokens_in: int
    tokens_out: int

    def sentence(self, calls: Calls) -> str:
        """In words, with the cost where prices are known."""
        cost = calls.cost(self.tokens_in, self.tokens_out)
        told = f", at most {cost:.2f} at the prices given" if cost is not None else ""
        return (
            f"{counted(self.calls - self.kept, 'call')} to be made ({self.kept} of {self.calls} are kept), "
            f"about {self.tokens_in:,} tokens in and at most {self.tokens_out:,} out{told}"
        )


@dataclass(frozen=True)
class Judge:
    """``base_url`` None: nobody is asked. ``swap``: each pair in both orders, since judges favour a place. ``samples``: of each.

    ``temperature`` None: the endpoint's own. ``limit``: the field that says how long an answer may be; newer models of OpenAI's
    take ``max_completion_tokens``. ``dry_run``: count the calls, make none. ``cache``: the folder in which judgements are kept.
    """

    base_url: str | None = None
    model: str | None = None
    swap: bool = True
    samples: Annotated[int, between(1, 100)] = 1
    temperature: Annotated[float, between(0, 2)] | None = 0.2
    max_tokens: Count = 1024
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    dry_run: bool = False
    cache: str = "outputs/judge"
    calls: Calls = field(default_factory=Calls)
    version: int = 1

    @property
    def there(self) -> bool:
        """Whether there is anybody to ask."""
        return self.base_url is not None

    @property
    def file(self) -> Path:
        """Where the judgements are kept, a line each."""
        name = re.sub(r"[^\w.-]+", "_", str(self.model))[:60]
        return Path(self.cache) / f"{name}-{self._digest([])[:12]}.jsonl"

    def check(self) -> None:
        """Raise `UserError` for what no call could be made with."""
        if not self.there:
            if self.model is not None or self.dry_run:
                raise UserError("judge.base_url is null: give the endpoint's address, such as http://localhost:8000/v1.")
            return
        if self.model is None:
            raise UserError("judge.model is null: say which model of the endpoint is to judge, judge.model=NAME.")
        self._endpoint().check()

    def plan(self, matters: Sequence[Matter]) -> Plan:
        """What judging them would take."""
        ledger, calls = self._ledger(), list(self._calls(matters))
        missing = {name: call for name, call in calls if name not in ledger.lines}
        read = [message["content"] for call in missing.values() for message in call.messages()]
        names = {name for name, _ in calls}
        return Plan(len(names), len(names) - len(missing), rough_tokens(read), len(missing) * self.max_tokens)

    def judge(self, matters: Sequence[Matter], progress: Callable[[int], None] = lambda n: None) -> list[Verdict]:
        """A verdict for each. Missing judgements are asked for and written as they come; ``progress`` is told of each.

        Raises `UserError` where some could not be had: those that were are kept, and the next run goes on with the rest.
        """
        ledger = self._ledger()
        calls = list(self._calls(matters))
        missing = {name: call for name, call in calls if name not in ledger.lines}
        if missing:
            self._fill(ledger, missing, progress)
        verdicts = {matter.key: Verdict() for matter in matters}
        for name, call in calls:
            _count(verdicts[call.matter.key], ledger.lines[name])
        return [verdicts[matter.key] for matter in matters]

    def _calls(self, matters: Sequence[Matter]) -> Iterator[tuple[str, Call]]:
        for matter in matters:
            for sample in range(self.samples):
                for answer_first in (False, True) if self.swap else (False,):
                    call = Call(matter, answer_first, sample)
                    yield self._digest([*call.messages(), sample]), call

    def _digest(self, told: Sequence[Any]) -> str:
        decides = [self.base_url, self._body(), self.version, *told]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:32]

    def _body(self) -> dict[str, Any]:
        warmth = {} if self.temperature is None else {"temperature": float(self.temperature)}
        return {"model": self.model, self.limit: self.max_tokens, **warmth}

    def _endpoint(self) -> Endpoint:
        return Endpoint(str(self.base_url), self._body(), self.calls)

    def _ledger(self) -> Ledger:
        return Ledger(self.file, "id")

    def _fill(self, ledger: Ledger, missing: dict[str, Call], progress: Callable[[int], None]) -> None:
        """Make the calls, at most ``at_once`` under way. Whatever ends it, calls under way end first and are written."""
        endpoint, unheard, row, answered = self._endpoint(), [], 0, False
        todo, under_way = iter(missing.items()), dict[Future[None], Call]()
        with endpoint.client() as client, ThreadPoolExecutor(self.calls.at_once) as pool:
            while row < (IN_A_ROW if answered else 1):
                for name, call in islice(todo, self.calls.at_once - len(under_way)):
                    under_way[pool.submit(_ask, endpoint, client, name, call, ledger)] = call
                if not under_way:
                    break
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    call = under_way.pop(future)
                    try:
                        future.result()
                    except Unheard as error:
                        unheard.append(f"question {call.matter.key}: {error}")
                        row += 1
                    else:
                        answered, row = True, 0
                        progress(1)
        if unheard:
            left = sum(name not in ledger.lines for name in missing)
            raise UserError(
                f"judge.base_url={self.base_url}: {left} of {len(missing)} judgements could not be had (first: {unheard[0]}); the "
                f"others are kept in {self.file}: run it again to go on."
            )


def _ask(endpoint: Endpoint, client: Any, name: str, call: Call, ledger: Ledger) -> None:
    """Add a line: the scores as they were given, or why there are none. ``asks``: how many answers came.

    Raises `Unheard`, or `UserError` where the endpoint refuses the first call of all: then it is not that question's fault.
    """
    replies: list[Reply] = []
    found, problem = None, ""
    while found is None and len(replies) < ASKS:
        try:
            replies.append(endpoint.ask(client, call.messages()))
        except Refused as error:
            if not replies and not any(line["asks"] for line in ledger.lines.values()):
                raise UserError(
                    f"judge.base_url={endpoint.base_url}: {error}; look at judge.model and the judge's options."
                ) from error
            problem = str(error)
            break
        found = scores(replies[-1].text)
        problem = f"its first line does not hold two scores (it ended by {replies[-1].ended})"
    ledger.add(
        {
            "id": name,
            "question": call.matter.key,
            "answer_first": call.answer_first,
            "sample": call.sample,
            "scores": found,
            "error": None if found else problem,
            "asks": len(replies),
            "tokens": [sum(reply.tokens_in for reply in replies), sum(reply.tokens_out for reply in replies)],
            "text": replies[-1].text if replies else "",
        }
    )


def _count(verdict: Verdict, line: dict[str, Any]) -> None:
    verdict.tokens_in += line["tokens"][0]
    verdict.tokens_out += line["tokens"][1]
    verdict.calls += line["asks"]
    if line["scores"] is None:
        verdict.failed.append(f"question {line['question']}: {line['error']}")
        return
    first, second = line["scores"]
    verdict.scores.append((second, first) if line["answer_first"] else (first, second))
