"""What the commands of the command line do: one function for each, of its parsed arguments.

`cli_arguments.py` has the arguments and their checks. `cli.py` imports this module, and Keras with it,
only when a command runs.
"""

import json
import os
import pathlib
import sys

import keras

from keras_encnet import data
from keras_encnet.cli_words import in_options
from keras_encnet.command_data import all_pairs, evaluation_pairs
from keras_encnet.command_training import train as train
from keras_encnet.convert import backbone_from_checkpoint, is_backbone, read_checkpoint
from keras_encnet.data.folders import image_paths
from keras_encnet.demo.demo import run as run_demo
from keras_encnet.export import verify
from keras_encnet.files import replacing
from keras_encnet.inference import evaluate as evaluate_model
from keras_encnet.inference.evaluation import check_evaluation
from keras_encnet.inference.video import is_video, segment_video
from keras_encnet.models.encnet import EncNet
from keras_encnet.presets import list_presets, save_preset
from keras_encnet.presets.cache import cache_directory

# Arguments that `segment` of a model has too.
HOW = ("resize", "window", "stride", "ratios", "flip", "protocol", "batch_size")

RESULTS = "_labels.png", "_overlay.png"  # what `segment` writes for each photograph


def demo(arguments):
    run_demo(arguments.out, seed=arguments.seed)


def segment(arguments):
    _cache_jax_compilations()
    sources, failures = _photos(arguments.photo)
    model = EncNet.from_preset(arguments.model)
    names = result_names(sources)
    # Of many photographs, a terminal shows how far it is instead of what is on each.
    bar = _bar(len(sources)) if len(sources) > 1 and sys.stdout.isatty() else None
    for i, (source, name) in enumerate(zip(sources, names, strict=True), 1):
        try:
            text = _segment_one(model, source, pathlib.Path(arguments.out) / name, arguments)
        except (ValueError, OSError, ImportError) as error:  # videos need a package of their own
            failures.append(error)
        else:
            bar or print(text)
        if bar:
            bar.update(i, finalize=i == len(sources))
    if bar:
        print(f"The results are in {arguments.out}.")
    if failures:
        listed = "\n".join(f"  {error}" for error in failures)
        raise ValueError(f"{len(failures)} of the inputs failed:\n{listed}")


def _segment_one(model, source, stem, arguments):
    """Writes the results for a photograph or a video, and returns a text about it."""
    if is_video(source):
        if arguments.confidence:
            raise ValueError(f"--confidence is only for photographs. Received: {source}")
        target = stem.with_name(f"{stem.name}_overlay.mp4")
        areas = _segment_video(model, source, target, _how(arguments))
        return "\n".join([f"{source}: {target}", *_listed_areas(areas)])
    result = model.segment(source, **_how(arguments), confidence=arguments.confidence)
    label_map, overlay = (stem.with_name(f"{stem.name}{ending}") for ending in RESULTS)
    result.save(label_map)
    with replacing(overlay) as unfinished:
        result.overlay(confidence=arguments.confidence).save(unfinished)
    lines = [f"{source}: {label_map}, {overlay}"]
    lines += _listed_areas(result.areas(), result.confidences() if arguments.confidence else {})
    if result.presence is not None:
        present = [f"{label} {value:.2f}" for label, value in result.present().items()]
        lines.append(f"  in the scene, as the SE head estimates: {', '.join(present) or 'nothing'}")
    return "\n".join(lines)


def _segment_video(model, source, target, how):
    bar = None

    def progress(number, count):
        nonlocal bar
        bar = bar or _bar(count, "frame")
        bar.update(number, finalize=number == count)

    return segment_video(
        model, source, target, progress=progress if sys.stdout.isatty() else None, **how
    )


def _listed_areas(areas, confidences=()):
    for label, area in areas.items():
        sure = f", {100 * confidences[label]:.0f} % sure" if label in confidences else ""
        yield f"  {label:20} {100 * area:5.1f} %{sure}"


def evaluate(arguments):
    _cache_jax_compilations()
    model = EncNet.from_preset(arguments.model)
    pairs = evaluation_pairs(arguments)
    check_evaluation(model, pairs, limit=arguments.limit, **_how(arguments))
    if pairs.has_masks:
        checked = pairs[: arguments.limit]
        data.check_masks(checked, model.num_classes, model.ignore_index, training=False)
    scores = evaluate_model(
        model,
        pairs,
        report=arguments.report,
        save_predictions=arguments.save_predictions,
        prediction_format=arguments.prediction_format or "png",
        limit=arguments.limit,
        **_how(arguments),
    )
    if scores is not None:
        print(scores)
    if arguments.report:
        print(f"The report is {pathlib.Path(arguments.report) / 'index.html'}.")
    if arguments.save_predictions:
        print(f"The label maps are in {arguments.save_predictions}.")


def check_data(arguments):
    named = all_pairs(arguments)
    total = sum(map(len, named.values()))
    bar = _bar(total) if sys.stdout.isatty() else None
    survey = data.check(
        named if len(named) > 1 else next(iter(named.values())),
        num_classes=arguments.num_classes,
        progress=bar and (lambda done, total: bar.update(done, finalize=done == total)),
    )
    if arguments.json:
        with replacing(arguments.json) as unfinished:
            unfinished.write_text(json.dumps(survey.to_json(), indent=2, ensure_ascii=False), "utf-8")
    if arguments.picture:
        with replacing(arguments.picture) as unfinished:
            survey.picture().save(unfinished, format="PNG")
    print(in_options(survey.text(command_line=True), "check-data"))
    return 0 if survey.ok else 1


def convert(arguments):
    checkpoint = read_checkpoint(arguments.input)
    if is_backbone(checkpoint):
        if arguments.labels or arguments.align_corners is not None:
            raise ValueError(
                f"{arguments.input} holds only a backbone, which has no classes and no corner rule. "
                "Leave --labels and --align-corners out."
            )
        model = backbone_from_checkpoint(checkpoint)
        use = (
            f"keras-encnet train --backbone {model.name} --backbone-weights {arguments.output}, or in "
            f"Python EncNet({model.name!r}, num_classes, backbone_weights={arguments.output!r})"
        )
    else:
        model = EncNet.from_pytorch(
            arguments.input, align_corners=arguments.align_corners, labels=arguments.labels
        )
        use = (
            f"keras-encnet segment PHOTO --model {arguments.output}, or in Python "
            f"EncNet.from_preset({arguments.output!r})"
        )
    save_preset(model, arguments.output, arguments.dtype)
    print(f"{model.count_params():,} parameters. Use them: {use}")


def export(arguments):
    model = EncNet.from_preset(arguments.model)
    path = model.export(
        arguments.path,
        arguments.format,
        outputs=tuple(arguments.outputs),
        image_size=arguments.image_size and tuple(arguments.image_size),
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
        quantize=arguments.quantize,
        calibration=arguments.calibration,
        version=arguments.version,
    )
    print(f"The model is in {path}.")
    if arguments.verify:
        print(verify(model, path, image_size=arguments.image_size, batch_size=arguments.batch_size))


def presets(arguments):
    print(list_presets())


# === Photographs and videos ===


def _how(arguments):
    """The options of `segment` that were given."""
    given = {name: getattr(arguments, name) for name in HOW}
    return {name: value for name, value in given.items() if value is not None}


def _bar(count, unit="image"):
    return keras.utils.Progbar(count, unit_name=unit)


def _photos(sources):
    """The files that files, folders and globs name, each once, and the errors of those that name
    none. In folders, earlier results are left out."""
    photos, failures = {}, []
    for source in sources:
        try:
            paths = image_paths(source)
        except OSError as error:
            failures.append(error)
            continue
        if os.path.isdir(source):
            paths = [path for path in paths if not path.name.endswith(RESULTS)]
            if not paths:
                failures.append(ValueError(f"{source} has no images but results of this command."))
        photos |= {path.resolve(): path for path in paths}
    return list(photos.values()), failures


def result_names(photos):
    """A different name for the results of each photograph: its own, or with its directory if another
    has the same, or with its ending too.

    >>> result_names([pathlib.Path("a/1.jpg"), pathlib.Path("b/2.jpg")])
    ['1', '2']
    >>> result_names([pathlib.Path("a/1.jpg"), pathlib.Path("b/1.jpg")])
    ['a/1', 'b/1']
    >>> result_names([pathlib.Path("a/1.jpg"), pathlib.Path("a/1.png")])
    ['1.jpg', '1.png']
    """
    paths = [path.resolve() for path in photos]
    names = [path.stem for path in paths]
    if len(set(names)) < len(paths):
        common = os.path.commonpath([path.parent for path in paths])
        paths = [path.relative_to(common) for path in paths]
        names = [path.with_suffix("").as_posix() for path in paths]
    return names if len(set(names)) == len(paths) else [path.as_posix() for path in paths]


def _cache_jax_compilations():
    """JAX compiles once per image size; with a cache on disk the next run need not compile again."""
    if keras.backend.backend() == "jax":
        import jax

        if jax.config.jax_compilation_cache_dir is None:
            jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "jax"))
