"""The one error for what a user can mend: one line that says what was wrong, with what, and what to do."""

from __future__ import annotations

import errno
import re

# torch says it so on a CPU, where it has no error of its own for it; oneDNN and C++ in their words
MEMORY = re.compile(r"out of memory|(can't|cannot|could not|failed to) allocate|not enough memory|bad_alloc|bad allocation", re.I)


# What `pip install` of fna brings along, as it is imported; the rest comes with extras or a method of one's own
NEEDED = frozenset(
    {"hydra", "omegaconf", "torch", "torchvision", "timm", "open_clip", "transformers", "torch_quickfps", "wandb", "pycocotools"}
    | {"safetensors", "scipy", "numpy", "pyarrow", "PIL", "matplotlib", "rich", "jinja2", "filelock", "httpx"}
)


class UserError(Exception):
    """A mistake in the input, not in the program: printed as one line, exit status 1, no traceback."""

    def __init__(self, message: str) -> None:
        """One line, whatever names and other libraries' words in ``message`` hold."""
        super().__init__(" ".join(str(message).splitlines()))


class NoOption(UserError):
    """An option that a method does not have."""


def not_installed(what: str, error: ModuleNotFoundError) -> UserError:
    """The sentence for a package that ``what`` needs and that is not there."""
    whole = ", or fna without --no-deps" if str(error.name).partition(".")[0] in NEEDED else ""
    return UserError(f"{what} needs {error.name}, which is not installed here; install it{whole}.")


def is_memory(error: BaseException) -> bool:
    """Whether an error, of Python, torch or the system, says that there is no more memory."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    named = type(error).__name__ == "OutOfMemoryError"  # of torch, which need not be loaded yet
    return isinstance(error, RuntimeError) and (named or MEMORY.search(str(error)) is not None)
