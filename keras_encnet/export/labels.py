"""From coarse logits to labels and confidence, in a graph: strip by strip, without full-size logits.

`inference.geometry` says how the pixels of an axis follow from coarse samples. A strip of rows is made
of the coarse rows that it depends on; then each tile of it is made of its own few columns. Classes lie
before columns, so that a tile is one matrix product for all its rows and classes.
"""

from keras import ops

from keras_encnet.inference.geometry import block_of

TILE = 128  # pixels of a row, at most, that are made of the same samples
TINY = 1.2e-38  # the smallest number of float32 at full precision


def extend_maps(
    maps, final, lines, first, window_shape, rows, columns, *, align_corners, exponential, runtime
):
    """`maps`, each `(done, batch, width)`, extended to the first `final` rows of the image.

    Args:
        maps: a dict of one or both of `"labels"`, `uint8` up to 255 classes, otherwise `uint16`, and
            `"confidence"`, float32.
        final: number of rows.
        lines: the coarse logits that the new rows depend on, `(lines, batch · classes · across · w)`:
            the rows of samples of all windows, those of a row of windows after those of the one above.
        first: the number of the first of these lines.
        window_shape: `(h, batch, classes, w)`.
        rows, columns: the axes of the image.
        align_corners: corner rule of the logits' resizing.
        exponential: whether scores are exponentials, as in PyTorch-Encoding's protocol.
        runtime: the `Runtime`, for its `argmax`, `strip` and `blocks`.
    """
    h, batch, classes, w = window_shape
    planes, width = batch * classes, columns.size
    tiles = (width + TILE - 1) // TILE
    tile = (width + tiles - 1) // tiles
    pixels = ops.reshape(ops.arange(tiles * tile), (tiles, tile))
    across = block_of(columns, pixels, w, align_corners, exponential)
    across_inner = transposed(across.inner)

    def made(index):
        """The rows `index` of each map."""
        along = block_of(rows, ops.expand_dims(index, 0), h, align_corners, exponential)
        # Blocks may name lines that are not there, with weight 0.
        samples = ops.clip(along.samples[0] - first, 0, ops.shape(lines)[0] - 1)
        x = ops.matmul(along.inner[0], ops.take(lines, samples, axis=0))
        count = ops.shape(x)[0]
        x = ops.reshape(x, (count * planes, columns.count * w))
        x = ops.take(x, ops.reshape(across.samples, (-1,)), axis=1)
        x = swapped(ops.reshape(x, (count * planes, tiles, -1)))
        x = ops.matmul(x, across_inner)
        if exponential:
            # float32 overflows at 88, and scores are added up.
            x = ops.exp(ops.minimum(x, 80))
            x = average_columns(x, across)
            x = average_rows(ops.reshape(x, (tiles, count, planes * tile)), along)
        x = ops.reshape(x, (-1, classes, tile))
        found = {}
        if "labels" in maps:
            found["labels"] = runtime.argmax(x)
        if "confidence" in maps:
            found["confidence"] = largest_share(x) if exponential else largest_softmax(x)
        return [in_rows(found[name], maps[name].dtype) for name in maps]

    def in_rows(x, dtype):
        x = swapped(ops.reshape(x, (tiles, -1, tile)))
        return ops.cast(ops.reshape(x, (-1, batch, tiles * tile))[:, :, :width], dtype)

    per_row = planes * tiles * ops.shape(across.inner)[1]
    if exponential:
        per_row = per_row * ops.shape(across.shares)[1] * (rows.view // rows.size + 1)
    step = ops.maximum(runtime.strip // per_row, 1)

    def in_strips(parts, first, last):
        """Adds rows to maps that begin with the row `first`, until `last`."""

        def add(*parts):
            done = first + ops.shape(parts[0])[0]
            return joined(parts, made(ops.arange(done, ops.minimum(done + step, last))))

        return loop(lambda part, *_: first + ops.shape(part)[0] < last, add, *parts)

    def in_blocks(parts):
        nothing = no_rows(batch, width, [part.dtype for part in parts])
        block = ops.maximum(step, (final - ops.shape(parts[0])[0]) // runtime.blocks + 1)

        def add(*parts):
            done = ops.shape(parts[0])[0]
            return joined(parts, in_strips(nothing, done, ops.minimum(done + block, final)))

        return loop(lambda part, *_: ops.shape(part)[0] < final, add, *parts)

    parts = list(maps.values())
    parts = in_blocks(parts) if runtime.blocks else in_strips(parts, 0, final)
    return dict(zip(maps, parts, strict=True))


def no_rows(batch, width, dtypes):
    """Maps without rows, `(0, batch, width)`, one of each dtype."""
    # Not zeros of length 0, for which `tf.lite.Interpreter` writes beyond the memory that it has.
    # Not in float32, where LiteRT's XNNPACK keeps the one row.
    nothing = ops.zeros((1, batch, width), "uint8")[:0]
    return [ops.cast(nothing, dtype) for dtype in dtypes]


def joined(upper, lower):
    """Pairs of maps, each pair as one."""
    return [ops.concatenate(pair, axis=0) for pair in zip(upper, lower, strict=True)]


def largest_softmax(scores):
    """The largest probability along the second-to-last axis, for logits."""
    best = ops.max(scores, axis=-2, keepdims=True)
    return 1 / ops.sum(ops.exp(scores - best), axis=-2)


def largest_share(scores):
    """The same for exponentials, all of which may be 0."""
    return ops.max(scores, axis=-2) / ops.maximum(ops.sum(scores, axis=-2), TINY)


def average_columns(x, block):
    """Averages scores `(runs, planes, k · v)` over the k windows and resizes them to the image."""
    runs, k, v = ops.shape(block.shares)
    x = ops.reshape(x, (runs, -1, k, v)) * ops.expand_dims(block.shares, 1)
    x = ops.sum(x, axis=2)
    return x if block.outer is None else ops.matmul(x, transposed(block.outer))


def average_rows(x, block):
    """The same for rows: `(runs, k · v, values)`."""
    _, k, v = ops.shape(block.shares)
    x = ops.reshape(x, (ops.shape(x)[0], k, v, -1)) * ops.reshape(block.shares, (1, k, v, 1))
    x = ops.sum(x, axis=1)
    return x if block.outer is None else ops.matmul(block.outer[0], x)


def transposed(x):
    """Swaps the last two of three axes."""
    # LiteRT's converter fails on equal permutations inside and outside a loop, whose constants it
    # shares. The network permutes three axes like this one, so four are permuted here.
    return ops.transpose(ops.expand_dims(x, 1), (0, 1, 3, 2))[:, 0]


def swapped(x):
    """Swaps the first two of three axes."""
    # tf2onnx turns a transposition that moves nothing into an invalid reshape.
    if x.shape[0] == 1:
        return ops.expand_dims(x[0], 1)
    if x.shape[1] == 1:
        return ops.expand_dims(x[:, 0], 0)
    return ops.transpose(x, (1, 0, 2))


# === What runtimes do differently ===


def argmax(scores):
    """The first of the largest along the second-to-last axis, by TensorFlow's own operation.

    Keras's takes care of negative zeros, with an operation that OpenVINO lacks."""
    import tensorflow as tf

    return tf.argmax(scores, axis=-2, output_type="int32")


def argmax_of_last_axis(scores):
    """The same. LiteRT is several times faster along the last axis."""
    import tensorflow as tf

    return tf.argmax(tf.linalg.matrix_transpose(scores), axis=-1, output_type="int32")


def loop(condition, step, *state):
    """The state after all steps while `condition` holds; the first axis of tensors may grow."""
    import tensorflow as tf

    shapes = tuple(
        tf.TensorShape([None]).concatenate(x.shape[1:]) if len(x.shape) else x.shape for x in state
    )
    return tf.while_loop(condition, step, state, shape_invariants=shapes, parallel_iterations=1)
