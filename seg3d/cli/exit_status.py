"""Every exception becomes one message on stderr and the right exit status."""

from __future__ import annotations

import io
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from seg3d.common.errors import (
    BAD_INPUT,
    FAILED,
    INTERRUPTED,
    RunFailed,
    UserError,
    is_out_of_memory,
)
from seg3d.common.files import in_plain_words
from seg3d.common.one_voice import are_several, end_in_one_voice
from seg3d.common.plain_text import message_of
from seg3d.common.standard_streams import open_what_is_closed
from seg3d.common.stopping import interrupted_by_sigterm


class Commands(click.Group):
    """Turn every exception into one message on stderr and the right exit status."""

    def make_context(self, *given: Any, **more: Any) -> click.Context:
        with _fit_to_print():
            return super().make_context(*given, **more)

    def invoke(self, ctx: click.Context) -> Any:
        open_what_is_closed()
        try:
            with interrupted_by_sigterm(), _libraries_quiet(), _fit_to_print():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            # Nobody reads what is printed: click ends quietly.
            raise
        except KeyboardInterrupt as error:
            said = "\n  ".join(["interrupted", *map(str, error.args)])
            self._leave(ctx, said, INTERRUPTED, error)
        except UserError as error:
            self._leave(ctx, f"error: {error}", BAD_INPUT, error)
        except RunFailed as error:
            self._leave(ctx, f"failed: {error}", FAILED, error)
        except Exception as error:
            mistake = in_plain_words(error) if isinstance(error, OSError) else None
            if mistake is None:
                self._leave(ctx, f"failed: {_in_words(error)}", FAILED, error)
            self._leave(ctx, f"error: {mistake}", BAD_INPUT, error)

    def _leave(self, ctx: click.Context, message: str, status: int, error: BaseException) -> None:
        if ctx.meta.get("seg3d.debug"):
            traceback.print_exc()
        if are_several():
            end_in_one_voice(message, status, error)
        # Where nobody can be told, the status still says it.
        with suppress(OSError):
            click.echo(message_of(message), err=True)
        ctx.exit(status)


def hear_libraries(heard: bool) -> None:
    """Whether what libraries log, and their warnings, stand beside the one message."""
    logging.disable(logging.NOTSET if heard else logging.CRITICAL)
    # What ends a library's thread is raised in the main one, when that next uses the library.
    threading.excepthook = threading.__excepthook__ if heard else lambda ended: None
    if not sys.warnoptions:
        warnings.simplefilter("default" if heard else "ignore")


@contextmanager
def _libraries_quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        hear_libraries(False)
        try:
            yield
        finally:
            hear_libraries(True)


@contextmanager
def _fit_to_print() -> Iterator[None]:
    """What click says of the command line, without what a terminal would obey."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        if are_several():
            told = io.StringIO()
            error.show(told)
            end_in_one_voice(told.getvalue().rstrip(), BAD_INPUT, error)
        raise click.UsageError(message_of(error.format_message()), error.ctx) from error


def _in_words(error: Exception) -> str:
    if is_out_of_memory(error):
        return (
            f"out of memory ({str(error).splitlines()[0] if str(error) else 'RAM'})\n"
            "  to do: a smaller patch.size, train.batch_size or predict.window_batch"
        )
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        return text
    return f"{text}\n  This was not foreseen; --debug shows where it happened."
