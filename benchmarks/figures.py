"""The speed figures of README.md, for two kinds of processor, as rows of a table.

    python benchmarks/figures.py --mmseg PYTHON [--compile] [--runs 3]

measures an image to its label map and a training step, compared with mmsegmentation, first with the
libraries limited to AVX2 (see processor.py) and then without a limit. It takes about 12 minutes on two
idle cores. On a processor with AVX2 alone, or with `--isa avx2`, there is one table.
"""

import os

from processor import this_processor
from products import Products, best, limit
from turns import parser, start_sides, table, take_turns

# request, height, width, batch, what the row says
MEASURED = (
    ("inference", 512, 512, 1, "512×512 to its label map"),
    ("inference", 1024, 2048, 1, "1024×2048 to its label map"),
    ("train", 256, 256, 2, "a training step of 2 × 256×256"),
)


def main():
    command_line = parser(__doc__.splitlines()[0])
    command_line.set_defaults(runs=3)
    options = command_line.parse_args()
    options.backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    options.dtype, options.device = "float32", "cpu"
    limits = [options.isa]
    if options.isa is None and "avx512f" in this_processor():
        limits = ["avx2", None]
    tables = []
    for options.isa in limits:
        rows = [row for what in ("inference", "train") for row in measure(options, what)]
        tables.append((options.isa, rows))
    for isa, rows in tables:
        print(
            f"\n{this_processor()}{f', limited to {isa}' if isa else ''}; medians of {options.runs}:\n"
        )
        print(
            "| | keras-encnet | mmsegmentation | compiled | ratio: time, memory | share of the limit |"
        )
        print("| --- | --- | --- | --- | --- | --- |")
        print(*rows, sep="\n")


def measure(options, what):
    """Measures all rows of one kind; returns them as lines of a Markdown table."""
    sides, products = start_sides(options), Products(options)
    lines = []
    for kind, height, width, batch, name in MEASURED:
        if kind != what or (options.sizes and (height, width) not in options.sizes):
            continue
        request = {"height": height, "width": width, "batch": batch}
        _, replies, rates = take_turns(sides, products, options.runs, what=what, **request)
        print(f"\n{name}, {options.runs} in turn")
        summary = table(sides, replies)
        training = what == "train"
        flops = sides[0].ask(what="flops", training=training, **request)["flops"]
        share = limit(flops * (3 if training else 1), rates, summary[0][0])
        cells = [f"{each:.3g} s, {peak:.0f} MB" for each, peak in summary]
        cells += [""] * (3 - len(cells))
        ratios = ""
        if len(summary) > 1:
            ratios = ", ".join(f"{a / b:.2f}" for a, b in zip(*summary[:2], strict=True))
        exceeded = ", EXCEEDED" if share > 1 else ""
        cells += [ratios, f"{share:.0%} of {best(rates)[0]}{exceeded}"]
        lines.append(f"| {' | '.join([name, *cells])} |")
    for side in [*sides, products]:
        side.close()
    return lines


if __name__ == "__main__":
    main()
