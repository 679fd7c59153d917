"""The limit of the other measurements: the best rate of any library's products of matrices."""

import sys
from statistics import median

from product_side import LIBRARIES, ON_CUDA, installed
from turns import HERE, Side, environment


class Products:
    """Products of large matrices in every library that is installed, each in its own process."""

    def __init__(self, options):
        cuda = options.device == "cuda"
        self.size, self.repeat = (8192, 20) if cuda else (4096, 1)
        self.sides = []
        for library, (name, _, dtypes, _) in LIBRARIES.items():
            python = sys.executable if installed(library) else None
            if library == "torch" and options.mmseg:
                python = options.mmseg
            if python is None or (cuda and library not in ON_CUDA):
                continue
            command = [python, HERE / "product_side.py", library, "--device", options.device]
            side = Side(name, command, environment(options.device, options.isa))
            side.name = f"{name} {side.ready[library]}"
            if options.dtype == "float32":
                dtypes = ("float32",)
            self.sides.append((side, "bfloat16" if cuda else self._fast_dtype(side, dtypes)))

    def _fast_dtype(self, side, dtypes):
        # On processors without instructions for half precision, float32 is faster.
        def rate(dtype):
            return max(side.ask(dtype=dtype, size=1024)["flops_per_second"] for _ in range(3))

        return max(dtypes, key=rate) if len(dtypes) > 1 else dtypes[0]

    def measure(self):
        """The rate of each library now, in operations per second, as a dict."""
        rates = {}
        for side, dtype in self.sides:
            reply = side.ask(dtype=dtype, size=self.size, repeat=self.repeat)
            rates[f"{side.name}, {dtype}"] = reply["flops_per_second"]
        return rates

    def close(self):
        for side, _ in self.sides:
            side.close()


def best(rates):
    """The library with the fastest products, and its median rate, from the rates of all rounds."""
    medians = {name: median(each[name] for each in rates) for name in rates[0]}
    return max(medians.items(), key=lambda item: item[1])


def limit(flops, rates, seconds):
    """Prints the least time that `flops` take, and its share of `seconds`, which it returns."""
    print("  products of large square matrices, GFLOP/s (min to max):")
    for name in rates[0]:
        each = [one[name] / 1e9 for one in rates]
        print(f"    {median(each):7.1f} ({min(each):.1f} to {max(each):.1f})  {name}")
    name, rate = best(rates)
    share = flops / rate / seconds
    print(f"  limit: {flops / 1e9:.4g} GFLOP take {flops / rate:.3f} s at the rate of {name}:", end=" ")
    print(f"{share:.0%} of the time measured")
    if share > 1:
        print("  EXCEEDED: the network is faster than each of these products, so none is a limit.")
    return share
