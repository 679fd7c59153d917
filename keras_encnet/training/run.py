"""A training run that can be stopped at any time and resumes when it is started again."""

import contextlib
import json
import math
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_encnet.data.batching import Batches
from keras_encnet.data.conventions import check_integer
from keras_encnet.files import locked, remove_leftovers, replacing
from keras_encnet.training.averages import averaged, has_averages, training_weights
from keras_encnet.training.best import Best
from keras_encnet.training.checkpoint import Checkpoint, metrics_of, write_checkpoint
from keras_encnet.training.description import describe_run
from keras_encnet.training.history import History
from keras_encnet.training.run_record import (
    compare_records,
    length_in_words,
    make_record,
    read_record,
    total_steps,
)
from keras_encnet.training.validation import ValidationScores


def train(
    make_model: Callable[[], keras.Model],
    data: Batches,
    *,
    directory: str | os.PathLike,
    epochs: int | None = None,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    settings: dict,
    every: float = 60,
    patience: int | None = None,
    validation_data=None,
    validation_freq: int = 1,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    announce: Callable[[str], object] | None = None,
    verbose: str | int = "auto",
) -> keras.Model:
    """Fits a model for `epochs` or `steps` in all, and resumes the run that `directory` holds, if it
    holds one.

    A resumed run gives what an uninterrupted one would, dropout included: its random numbers follow
    from the seed of `data` and the step. A run can be given more epochs or steps than it was started
    with, or fewer, but not fewer than it has reached. Its weights and the optimizer's state are then
    kept, and the learning rate becomes that of `make_model()` at the step that was reached: a schedule
    that had fallen to its end rises again and falls until the new end.

    If the optimizer averages the weights (`use_ema`), the averages are validated, kept as the best and
    returned.

    Args:
        make_model: function that returns the compiled model to start from.
        data: `keras_encnet.data.batches(..., augment=True)`.
        directory: where two checkpoints, `best.keras` (the model with the best `val_miou`, without its
            optimizer), `history.csv`, `curves.png` and `settings.json` are kept. One run at a time may
            use it. If several processes train together, all of them must see it; the first one writes.
        epochs: total number of epochs.
        steps: total number of steps, instead of `epochs`.
        steps_per_epoch: how many steps are an epoch of this run: after each there are a validation and
            a row in the history. Default: those of an epoch of `data`.
        settings: what the training depends on, a dict that fits into JSON. The data is compared as
            well, by the number of pairs and by masks and image sizes (of 200 pairs at most), so that
            its files may move.
        every: least number of seconds between two checkpoints within an epoch. Saving takes 5 % of the
            time at most.
        patience: the run ends after so many validations without a better `val_miou`; `None`: it does
            not.
        validation_data: as for `model.fit`; not augmented.
        validation_freq: as for `model.fit`.
        callbacks: Keras callbacks. Their own state is not kept from run to run; instead of
            `EarlyStopping` and `SwapEMAWeights` see above.
        announce: called once, before training, with the text of `describe_run`, such as `print`.
        verbose: as for `model.fit`.

    Returns:
        The trained model, as it is after the last step.

    Raises:
        ValueError: if `directory` holds a training run with other settings or data, or one that has
            reached more epochs or steps, or all its checkpoints are damaged; or if an argument is not
            as described.
        OSError: if another run uses `directory`, or it cannot be written.
        KeyboardInterrupt: on Ctrl-C, after saving the state.

    Warns:
        UserWarning: if a run resumes on another backend or version, with another number of epochs or
            steps, or from the last checkpoint but one.
    """
    _check_arguments(data, epochs, steps, steps_per_epoch, patience, validation_data, callbacks)
    directory = pathlib.Path(directory)
    steps_per_epoch = steps_per_epoch or data.steps_per_epoch
    length = {"steps": steps} if epochs is None else {"epochs": epochs}
    steps = steps or epochs * steps_per_epoch
    # Of several processes, the first one writes.
    writes = data.shard[0] == 0
    with _prepared(directory, writes):
        file = directory / "settings.json"
        before, now = read_record(file), make_record(settings, data, length, steps_per_epoch)
        compare_records(before, now, directory)
        path, step = Checkpoint.newest_complete(directory)
        _check_length(step, steps, steps_per_epoch, length, directory)
        model = _model(make_model, path, before, now, writes)
        if writes:
            with replacing(file) as unfinished:
                unfinished.write_text(json.dumps(now, indent=1), "utf-8")
        data.start_at(step)
        _seed_dropout(model, data.seed, step)
        history = History(directory / "history.csv", step // steps_per_epoch, writes=writes)
        best = Best(directory / "best.keras", history.best())
        checkpoint = Checkpoint(
            directory,
            every=every,
            start=step,
            metrics=path and metrics_of(path),
            best=best,
            writes=writes,
        )
        if announce:
            announce(
                describe_run(
                    model,
                    data,
                    steps=steps,
                    steps_per_epoch=steps_per_epoch,
                    validation=_validation_pairs(validation_data, callbacks),
                    directory=directory,
                )
            )
        seen = [*callbacks, best]
        if has_averages(model.optimizer):
            seen = averaged(seen)
        try:
            with training_weights(model.optimizer):
                _fit(
                    model,
                    data,
                    steps,
                    steps_per_epoch,
                    lambda: patience is not None and history.validations_since_best() >= patience,
                    [*seen, history, checkpoint],
                    validation_data=validation_data,
                    validation_freq=validation_freq,
                    verbose=verbose,
                )
                checkpoint.save()
        finally:
            checkpoint.close()
            # Without a checkpoint there is nothing to resume: other settings are as good.
            if writes and Checkpoint.newest(directory)[0] is None:
                file.unlink(missing_ok=True)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    return model


@contextlib.contextmanager
def _prepared(directory, writes):
    if not writes:
        yield
        return
    with locked(directory, "training run"):
        remove_leftovers(directory / "*")
        yield


def _model(make_model, path, before, now, writes):
    """A new model, or that of the checkpoint `path`."""
    if path is None:
        return make_model()
    if not total_steps(before) or total_steps(before) == total_steps(now):
        return keras.saving.load_model(path)
    # The schedule is for another length: a new model, in the state of the checkpoint.
    model = make_model()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    if writes:
        # If this run is killed before its first checkpoint, the next one finds its schedule there.
        write_checkpoint(model, path, metrics_of(path))
    warnings.warn(
        f"The run in {path.parent} was started for {length_in_words(before)} and now has "
        f"{now.get('steps', now.get('epochs'))}. From now on its learning rate is that of a run of "
        f"{length_in_words(now)}.",
        stacklevel=3,
    )
    return model


def _fit(model, data, steps, steps_per_epoch, is_enough, callbacks, **options):
    """Calls `fit` until all steps are done, or `is_enough()`, or a callback ends training."""
    try:
        while data.step < steps and not is_enough():
            epoch, done = divmod(data.step, steps_per_epoch)
            # Keras fixes the length of epochs when `fit` begins: a shorter one gets its own call.
            data.length = min(steps_per_epoch - done, steps - data.step)
            is_complete = data.length == steps_per_epoch
            end = _End(steps // steps_per_epoch - 1 if is_complete else epoch, is_enough)
            model.fit(
                data,
                initial_epoch=epoch,
                epochs=math.ceil(steps / steps_per_epoch),
                callbacks=[*callbacks, end],
                **options,
            )
            if end.by_another:
                return
    finally:
        data.length = None


class _End(keras.callbacks.Callback):
    """Ends `fit` after the epoch `last`, or when it is enough, unless another callback does."""

    by_another = False

    def __init__(self, last, is_enough):
        super().__init__()
        self.last, self.is_enough = last, is_enough

    def on_epoch_end(self, epoch, logs=None):
        self.by_another = self.model.stop_training
        if epoch == self.last or self.is_enough():
            self.model.stop_training = True


def _seed_dropout(model, seed, step):
    """Makes dropout a matter of the seed and the step: Keras does not save its random state."""
    states = [each for each in model.variables if each.name == "seed_generator_state"]
    for i, state in enumerate(states):
        # Each step takes one random number of each layer.
        state.assign([int(np.random.SeedSequence([seed, i]).generate_state(1)[0] >> 1), step])


# === Arguments ===


def _check_arguments(data, epochs, steps, steps_per_epoch, patience, validation_data, callbacks):
    if not isinstance(data, Batches) or not data.augment:
        raise ValueError(
            "`data` must be `keras_encnet.data.batches(..., augment=True)`: only they can start at any "
            f"step. Received: {data!r}"
            f"{' without augment=True' if isinstance(data, Batches) else ''}. For other data call "
            "`model.fit`."
        )
    if isinstance(validation_data, Batches) and validation_data.augment:
        raise ValueError(
            "`validation_data` must not be augmented. Received: batches with augment=True. Leave "
            "`augment` out."
        )
    if epochs is not None and steps is not None:
        raise ValueError(
            f"Either `epochs` or `steps` must be given. Received: epochs={epochs!r} and "
            f"steps={steps!r}. Leave one of them out."
        )
    if steps is None:
        check_integer("epochs", epochs)
    else:
        check_integer("steps", steps)
    if steps_per_epoch is not None:
        check_integer("steps_per_epoch", steps_per_epoch)
    if patience is not None:
        check_integer("patience", patience)
        if not _validation_pairs(validation_data, callbacks):
            raise ValueError(
                f"`patience` needs the `val_miou` of a validation. Received: patience={patience} "
                "without one. Pass `validation_data`, or ValidationScores(pairs) in `callbacks`."
            )
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.SwapEMAWeights):
            raise ValueError(
                "`callbacks` must have no `SwapEMAWeights`: `train` validates and returns the averages "
                f"of an optimizer with use_ema=True by itself. Received: {callback!r}. Leave it out."
            )


def _check_length(step, steps, steps_per_epoch, length, directory):
    if step <= steps:
        return
    (name, given) = next(iter(length.items()))
    reached = step if name == "steps" else -(-step // steps_per_epoch)
    raise ValueError(
        f"`{name}` must be at least {reached}, which {directory} has reached. Received: {given}. Give "
        "more, or another directory."
    )


def _validation_pairs(validation_data, callbacks):
    """What is validated on: pairs, or other data."""
    scores = [each.pairs for each in callbacks if isinstance(each, ValidationScores)]
    return scores[0] if scores else getattr(validation_data, "pairs", validation_data)
