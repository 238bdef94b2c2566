"""A chat endpoint as OpenAI's API has it (``POST base_url/chat/completions``), of whatever provider or server of one's own.

What may pass is tried again with growing waits: no connection, no answer in time, 408, 409, 425, 429, 5xx, an answer that is no
chat completion. What cannot is told at once. The key is read from the environment, sent in one header, and taken out of every text
that comes back; addresses are not followed elsewhere, so that it goes nowhere else.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from fna.errors import UserError, not_installed
from fna.values import Count, NotNegative, Positive, between

PASSING = frozenset({408, 409, 425, 429})  # and 5xx
OF_THE_CALL = frozenset({400, 413, 422})  # what is wrong with this call may be right with the next: too long, or filtered
LONGEST = 60.0  # seconds between two tries, whatever the server asks for
LARGEST = 1 << 22  # bytes of an answer


class Unheard(Exception):
    """No answer, after all tries."""


class Refused(Exception):
    """The endpoint does not take this very call."""


class _Again(Exception):
    """Something that may pass. ``after``: seconds that the server asks to wait, None where it does not say."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True)
class Calls:
    """How calls are made; nothing here decides what is answered.

    ``timeout``: seconds for one try. ``retries``: tries beyond the first. ``wait``: seconds before the second, then twice as many
    each. ``at_once``: calls under way together. ``price_in``, ``price_out``: for a million tokens. ``key_env``: the variable of the
    environment that holds the key; where there is none, none is sent.
    """

    timeout: Positive = 60.0
    retries: Annotated[int, between(0, 50)] = 5
    wait: Positive = 1.0
    at_once: Annotated[int, between(1, 64)] = 1
    price_in: NotNegative | None = None
    price_out: NotNegative | None = None
    key_env: str = "OPENAI_API_KEY"
    version: ClassVar[int] = 1

    def cost(self, tokens_in: float, tokens_out: float) -> float | None:
        """In the currency of the prices; None where there are none."""
        if self.price_in is None or self.price_out is None:
            return None
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


@dataclass(frozen=True)
class Reply:
    """``text``: what was said, without the key; ``ended``: why it stopped; tokens as the endpoint counted them, else 0."""

    text: str
    ended: str
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class Endpoint:
    """``body``: what every call holds beside its messages: the model, the temperature."""

    base_url: str
    body: Mapping[str, Any]
    calls: Calls
    tokens: Count = 1024

    def check(self) -> None:
        """Raise `UserError` for an address that is none or holds a secret, and a key that no header takes."""
        wrong = UserError(f"judge.base_url={self.base_url}: is no address; write http://localhost:8000/v1, for one.")
        try:
            address = urlsplit(self.base_url)
            _ = address.port
        except ValueError:
            raise wrong from None
        if address.username or address.password or address.query:
            raise UserError(
                f"judge.base_url: give the address alone; a key in it would be written down. Put it into {self.calls.key_env}."
            )
        if address.path.rstrip("/").endswith("/chat/completions"):
            raise UserError(
                f"judge.base_url={self.base_url}: /chat/completions is put behind it; give {self.base_url.partition('/chat/')[0]}"
            )
        if not self.calls.key_env.isidentifier():  # it is not repeated: it may be the key
            raise UserError("judge.key_env: is no name of a variable; give the name, and put the key itself into the environment.")
        if address.scheme not in ("http", "https") or not address.hostname:
            raise wrong
        self._key()

    def client(self) -> Any:
        """What keeps the connections; close it."""
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise not_installed("a judge", error) from error
        key = self._key()
        return httpx.Client(
            timeout=self.calls.timeout, headers={"Authorization": f"Bearer {key}"} if key else {}, follow_redirects=False
        )

    def ask(self, client: Any, messages: Sequence[Mapping[str, str]]) -> Reply:
        """One answer. Raises `Unheard`, `Refused`, or `UserError` where no call could succeed."""
        for attempt in range(self.calls.retries + 1):
            try:
                return self._once(client, messages)
            except _Again as error:
                last = error
            if attempt < self.calls.retries:
                time.sleep(self._pause(attempt, last.after))
        raise Unheard(f"{last} (tried {self.calls.retries + 1} times)")

    def _pause(self, attempt: int, asked: float | None) -> float:
        """Twice as long each time, a part of it by chance so that calls do not come back together; the server's word counts."""
        longest = min(LONGEST, self.calls.wait * 2**attempt)
        return min(LONGEST, max(asked or 0.0, longest * random.uniform(0.5, 1)))

    def _once(self, client: Any, messages: Sequence[Mapping[str, str]]) -> Reply:
        import httpx

        url = f"{self.base_url.rstrip('/')}/chat/completions"
        try:
            status, headers, text = self._sent(client, url, {**self.body, "messages": list(messages)})
        except httpx.TimeoutException as error:
            raise _Again(f"no answer within {self.calls.timeout:g} s") from error
        except httpx.RequestError as error:
            raise _Again(f"no connection ({self._told(str(error))})") from error
        if status == 200:
            return self._read(text)
        said = f"HTTP {status}" + (f": {words}" if (words := self._told(_words(text))) else "")
        if status in PASSING or status >= 500:
            raise _Again(said, _seconds(headers.get("retry-after")))
        if status in OF_THE_CALL:
            raise Refused(said)
        if status in (401, 403):
            name = self.calls.key_env
            mend = f"look at the key in {name}" if self._key() else f"put a key into the environment as {name}"
            raise UserError(f"{url}: refuses the key ({said}); {mend}.")
        raise UserError(f"{url}: {said}; look at judge.base_url and judge.model.")

    def _sent(self, client: Any, url: str, body: Mapping[str, Any]) -> tuple[int, Any, str]:
        """Status, headers and text; all of it has to come in time, not each piece alone."""
        import httpx

        ends, pieces, size = time.monotonic() + self.calls.timeout, [], 0
        with client.stream("POST", url, json=body) as response:
            for piece in response.iter_bytes():
                pieces.append(piece)
                size += len(piece)
                if time.monotonic() > ends:
                    raise httpx.ReadTimeout("too slow")
                if size > LARGEST:
                    raise _Again(f"an answer of more than {LARGEST} bytes")
            return response.status_code, response.headers, b"".join(pieces).decode(errors="replace")

    def _read(self, text: str) -> Reply:
        try:
            content = json.loads(text)
            choice = content["choices"][0]
            said, ended = choice["message"]["content"] or "", choice.get("finish_reason")
            if not isinstance(said, str):
                raise TypeError("content is no text")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            raise _Again(f"an answer that is no chat completion ({self._told(text)[:60]})") from error
        usage = content.get("usage")
        counted = [usage.get(name) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "completion_tokens")]
        tokens = [count if isinstance(count, int) and count >= 0 else 0 for count in counted]
        return Reply(self._hidden(said), str(ended), tokens[0], tokens[1])

    def _key(self) -> str:
        """Raises `UserError`, without the key, for one that no header takes."""
        key = os.environ.get(self.calls.key_env, "").strip()
        if not (key.isascii() and (key.isprintable() or not key)) or " " in key:
            raise UserError(f"the key in {self.calls.key_env} holds blanks or what is no ASCII; copy it again.")
        return key

    def _hidden(self, text: str) -> str:
        key = self._key()
        return text.replace(key, "[key]") if key else text

    def _told(self, text: str) -> str:
        """Somebody else's words on one line, short, and without the key."""
        return " ".join(self._hidden(text).split())[:160]


def _words(text: str) -> str:
    """What an error's body says: OpenAI's ``error.message`` where it is one."""
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        return text


def _seconds(header: str | None) -> float | None:
    """``Retry-After`` in seconds; a date is left to our own waits."""
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
