"""A training step: time and peak memory, compared with mmsegmentation in the same run.

    python benchmarks/training.py [--mmseg PYTHON [--compile]] [--sizes 256x256] [--batch 2]

runs both with the same weights, images and masks, each in its own process, in turn, and prints medians
and the processor's limit. benchmarks/README.md says what is measured and how to install mmsegmentation.
"""

from products import Products, limit
from turns import arguments, start_sides, table, take_turns


def main():
    options = arguments(__doc__.splitlines()[0], sizes=("256x256",), batch=2)
    sides, products = start_sides(options), Products(options)
    repeat = 10 if options.device == "cuda" else 1
    for height, width in options.sizes:
        request = {"height": height, "width": width, "batch": options.batch}
        first, replies, rates = take_turns(
            sides, products, options.runs, what="train", **request, repeat=repeat
        )
        print(f"\n{options.batch} × {height}×{width}, a training step, {options.runs} in turn")
        seconds, _ = table(sides, replies)[0]
        for side, reply in zip(sides, first, strict=True):
            print(f"  loss of the first step, {side.name}: {reply['loss']:.4f}")
        forward = sides[0].ask(what="flops", training=True, **request)["flops"]
        print(f"  forward {forward / 1e9:.4g} GFLOP, backward twice as many")
        limit(3 * forward, rates, seconds)
    for side in [*sides, products]:
        side.close()


if __name__ == "__main__":
    main()
