"""The one exception that is shown to people instead of a traceback."""

from __future__ import annotations

from seg3d.common.plain_text import echo_of, message_of

# With which the command line ends.
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class UserError(Exception):
    """A mistake that the person at the keyboard can mend: bad input, file or setting.

    Args:
        problem: what is wrong, naming the file or config key.
        given: what was found there; of a long value only the ends are shown.
        legal: what would have been accepted.
        fix: what to do about it.

    Names and values may come from anywhere: characters that a terminal would obey are escaped.
    The command line prints the message on stderr and leaves with exit status 2.

    Attributes:
        problem, given, legal, fix: as they stand in the message; None for what was not said.
    """

    def __init__(
        self,
        problem: str,
        *,
        given: object = None,
        legal: object = None,
        fix: str | None = None,
    ) -> None:
        self.problem = message_of(problem)
        self.given = None if given is None else echo_of(given)
        self.legal = None if legal is None else message_of(str(legal))
        self.fix = None if fix is None else message_of(fix)
        said = (("given", self.given), ("legal", self.legal), ("to do", self.fix))
        parts = [self.problem, *(f"  {what}: {words}" for what, words in said if words is not None)]
        super().__init__("\n".join(parts))


class RunFailed(Exception):
    """Work that began well and then failed; the command line leaves with exit status 1."""


class OtherEnded(RunFailed):
    """Another process that shares the work has ended before its time.

    Args:
        rank: its number, if that is known.
    """

    def __init__(self, rank: str | None = None) -> None:
        which = "another process" if rank is None else f"process {rank}"
        super().__init__(
            f"{which} of those that share the work has ended; it may have been killed for lack "
            "of memory\n  to do: --resume goes on from what was done"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory for something, on a GPU or in RAM."""
    # PyTorch has no kind of its own for the CPU's memory.
    in_ram = isinstance(error, MemoryError) or "allocate memory" in str(error)
    return in_ram or type(error).__name__ == "OutOfMemoryError"
