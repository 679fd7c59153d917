"""Segmenting an image: time and peak memory, compared with mmsegmentation in the same run.

    python benchmarks/inference.py [--mmseg PYTHON [--compile]] [--sizes 512x512 1024x2048]

runs both with the same weights and images, each in its own process, in turn, and prints medians, then
where the time goes and how far it is from the processor's limit. benchmarks/README.md says what is
measured and how to install mmsegmentation.
"""

from products import Products, limit
from turns import arguments, start_sides, table, take_turns


def main():
    options = arguments(__doc__.splitlines()[0], sizes=("512x512", "1024x2048"), batch=1)
    sides, products = start_sides(options), Products(options)
    repeat = 10 if options.device == "cuda" else 1
    measured = {}
    for height, width in options.sizes:
        request = {"height": height, "width": width, "batch": options.batch}
        first, replies, rates = take_turns(
            sides, products, options.runs, what="inference", **request, repeat=repeat
        )
        print(f"\n{options.batch} × {height}×{width}, image to label map, {options.runs} in turn")
        seconds, _ = table(sides, replies)[0]
        for side, reply in zip(sides[1:], first[1:], strict=True):
            print(f"  the same labels as {side.name}: {reply['agreement']:.4%} of the pixels")
        measured[height, width] = request, seconds, rates

    # Last, because what is compiled for the parts stays in memory.
    for (height, width), (request, seconds, rates) in measured.items():
        print(f"\n{options.batch} × {height}×{width}, where our time is spent")
        where(sides[0].ask(what="parts", **request), seconds, rates)
    for side in [*sides, products]:
        side.close()


def where(reply, seconds, rates):
    print("                          seconds     GFLOP   GFLOP/s")
    before = 0
    for part in reply["parts"]:
        row(part["name"], part["seconds"] - before, part["flops"])
        before = part["seconds"]
    print("  of a complete inference:")
    network = reply.get("network", before)
    labels = reply.get("labels", reply["total"] - network)
    row("network", network, reply["flops"])
    row("upsampling, argmax", labels)
    row("rest", reply["total"] - network - labels)
    limit(reply["flops"], rates, seconds)


def row(name, seconds, flops=None):
    counts = "" if flops is None else f"{flops / 1e9:10.1f}"
    # A difference of two measurements may be noise, even negative.
    rate = f"{flops / seconds / 1e9:10.1f}" if flops and seconds > 0 else ""
    print(f"  {name:22} {seconds:8.4f}{counts}{rate}")


if __name__ == "__main__":
    main()
