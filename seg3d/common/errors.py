"""The one exception that is shown to people instead of a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the person at the keyboard can mend: bad input, file or setting.

    Args:
        problem: what is wrong, naming the file or config key.
        given: what was found there.
        legal: what would have been accepted.
        fix: what to do about it.

    The command line prints the message on stderr and leaves with exit status 2.
    """

    def __init__(
        self,
        problem: str,
        *,
        given: object = None,
        legal: object = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        parts = [problem]
        for word, what in (("given", given), ("legal", legal), ("to do", fix)):
            if what is not None:
                parts.append(f"  {word}: {what}")
        super().__init__("\n".join(parts))


class RunFailed(Exception):
    """Work that began well and then failed; the command line leaves with exit status 1."""
