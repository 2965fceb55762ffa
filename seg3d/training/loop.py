"""Training: `fit` is the loop, `train_prepared` sets up what goes into it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from rich.console import Console

from seg3d.common.device import choose_device
from seg3d.common.printing import print_as_is
from seg3d.common.progress import Bar, progress_bar
from seg3d.common.ranks import ALONE, Ranks
from seg3d.common.stopping import Reason, StopRequest
from seg3d.data.cache import Cache, training_cache
from seg3d.data.cases import Case
from seg3d.data.loaders import patch_batches, patch_stream
from seg3d.data.transforms import IMAGE
from seg3d.runs.checkpoint import damage_explained, load_checkpoint, restore_random_states
from seg3d.runs.run_folder import Run
from seg3d.training.data_parallel import (
    changes_in_words,
    shares_in_words,
    take_buffers_of_first,
)
from seg3d.training.journal import Journal, NoJournal
from seg3d.training.levels import bits_by_level, noise_by_level
from seg3d.training.preparation import Prepared, save_prepared
from seg3d.training.start_weights import read_start, take_weights
from seg3d.training.trainer import Trainer, chooses_bits
from seg3d.training.validation import validate

TRIAL_PATCHES = 6  # by which the bits are chosen

Ending = Literal["finished"] | Reason


def train_prepared(
    prepared: Prepared,
    run: Run,
    device_name: str,
    resume: bool,
    console: Console,
    ranks: Ranks = ALONE,
) -> Ending:
    """Train, or continue to train, a prepared run to its end.

    Args:
        prepared: config, plan and cases.
        run: the folder to write to.
        device_name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        resume: continue from the last checkpoint of the run.
        console: for messages and progress.
        ranks: the processes that train together; the first one writes.

    Returns:
        How it ended. Unless finished, ``resume`` continues it.

    Raises:
        UserError: if the device or a setting does not suit.
        RunFailed: if the loss stops being finite, or there are no more patches for lack of memory
            or because preprocessed volumes have gone.
    """
    config, plan = prepared.config, prepared.plan
    trainer = Trainer(config, plan, run, ranks.device(choose_device(device_name)), ranks)
    cache = training_cache(prepared.train, config, plan, run.cache, ranks)
    if ranks.first:
        if config.train.init_from is not None and not resume:
            said = take_weights(trainer.network, read_start(config.train.init_from))
            print_as_is(console, said)
        # Not before this has gone well: a start that fails leaves nothing behind.
        save_prepared(prepared, run)
        if not resume:
            # Whatever ends it from here on, it can be resumed: a start is a resume from step 0.
            trainer.save(run.last)
    ranks.wait()
    checkpoint = load_checkpoint(run.last)[2]
    with damage_explained(run.last):
        trainer.load(checkpoint)
        restore_random_states(checkpoint)
    notes = prepared.notes
    if trainer.processes != ranks.count:
        per_process = trainer.patches_per_step // ranks.count
        notes = [*notes, changes_in_words(trainer.processes, ranks.count, per_process)]
        print_as_is(console, f"Note: {notes[-1]}")
    done = trainer.position
    journal = Journal(run.tensorboard, run.log, done.epochs_done) if ranks.first else NoJournal()
    journal.notes(done.epochs_done, notes)
    print_as_is(console, f"preprocessed volumes: {cache}")
    try:
        fill_cache(cache, console, ranks)
    except KeyboardInterrupt:
        if ranks.count > 1:
            # The others wait, and do not hear of it otherwise.
            raise KeyboardInterrupt("--resume continues it") from None
        return "interrupted"
    stream = patch_stream(cache, config, plan)
    first = done.patches
    steps = config.train.epochs * config.train.iterations_per_epoch
    last = first + (steps - done.step) * trainer.patches_per_step

    def trial() -> list[dict[str, Any]]:
        """Patches behind the last of those that training itself will see."""
        return [stream[last + index] for index in range(TRIAL_PATCHES)]

    if chooses_bits(config) and not trainer.bits_are_chosen:
        print_as_is(console, trainer.choose_bits(trial))
        restore_random_states(checkpoint)
        trainer.save(run.last)
    stop = StopRequest(config.train.max_time, ranks.largest)
    # Whoever reads that it trains may interrupt it.
    with stop.listening():
        console.print(
            f"training step {done.step + 1} to {steps} on {trainer.device}, "
            + str(trainer.dtype).removeprefix("torch.")
            + shares_in_words(ranks.count, trainer.patches_per_step)
        )
        restore_random_states(checkpoint)
        with (
            patch_batches(stream, config, plan, first, last, ranks) as batches,
            progress_bar(console, "training", steps, done.step) as bar,
        ):
            ending = fit(trainer, batches, trial, prepared.val, journal, stop, bar, console)
            if ending != "finished":
                trainer.save(run.last)
    journal.close()
    return ending


def fill_cache(cache: Cache, console: Console, ranks: Ranks) -> None:
    """Preprocess the volumes: on disk, the first process does it for all."""
    with progress_bar(console, "preprocessing", len(cache)) as bar:
        if ranks.first or not cache.shared:
            cache.fill(bar.advance)
        ranks.wait()


def fit(
    trainer: Trainer,
    batches: Iterator[dict[str, Any]],
    trial: Callable[[], Sequence[dict[str, Any]]],
    val_cases: Sequence[Case],
    journal: Journal | NoJournal,
    stop: StopRequest,
    bar: Bar,
    console: Console,
) -> Ending:
    """The training loop: from where the trainer stands to the end, or to a request to stop."""
    position, train = trainer.position, trainer.config.train
    while position.epochs_done < train.epochs:
        clock = EpochClock(batches, trainer.ranks.count)
        while position.step < (position.epochs_done + 1) * train.iterations_per_epoch:
            if reason := stop.agreed():
                return reason
            trainer.step(clock)
            bar.advance()
        speed = clock.read()
        validation = None
        if trainer.validation_is_due:
            take_buffers_of_first(trainer.network, trainer.group)
            validation = validate(
                trainer.network,
                trainer.plan,
                val_cases,
                overlap=trainer.config.validation.overlap,
                dtype=trainer.dtype,
                stop=stop,
                describe=bar.describe,
                ranks=trainer.ranks,
            )
            bar.describe("training")
            if validation is None:
                # Cut short: it is done again, from the same weights, when the run is resumed.
                return stop.agreed() or "interrupted"
        scalars = trainer.close_epoch(speed, validation)
        if trainer.bits_are_due:
            print_as_is(console, trainer.choose_bits(trial))
            scalars |= noise_by_level(trainer.noise)
        scalars |= bits_by_level(trainer.network)
        journal.scalars(position.epochs_done, scalars)
        if validation is not None and validation.picture is not None:
            journal.picture(position.epochs_done, "validation", validation.picture)
        # After the log: whatever is in it beyond the last checkpoint is dropped on resuming.
        trainer.keep(validation)
        print_as_is(console, epoch_line(position.epochs_done, train.epochs, scalars))
    return "finished"


def epoch_line(epoch: int, epochs: int, scalars: dict[str, float]) -> str:
    """One line for people about an epoch."""
    line = f"epoch {epoch}/{epochs}  loss {scalars['loss/loss']:.4f}"
    dice = [
        f"{tag.removeprefix('dice/')} {value:.3f}"
        for tag, value in scalars.items()
        if tag.startswith("dice/")
    ]
    return f"{line}  Dice: {', '.join(dice)}" if dice else line


class EpochClock:
    """Pass batches on and keep time: of an epoch, and of the waiting for its data.

    Args:
        batches: of this process.
        processes: that have as many.
    """

    def __init__(self, batches: Iterator[dict[str, Any]], processes: int) -> None:
        self.batches = batches
        self.processes = processes
        self.start = time.perf_counter()
        self.waited = 0.0
        self.patches = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        asked = time.perf_counter()
        batch = next(self.batches)
        self.waited += time.perf_counter() - asked
        self.patches += len(batch[IMAGE])
        return batch

    def read(self) -> dict[str, float]:
        """Patches per second of all processes, and the share of the time spent waiting for them."""
        elapsed = max(time.perf_counter() - self.start, 1e-9)
        return {
            "speed/patches_per_second": self.processes * self.patches / elapsed,
            "speed/data_wait_fraction": self.waited / elapsed,
        }
