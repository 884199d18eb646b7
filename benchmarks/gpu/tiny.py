"""A few small problems with one engine, for compute-sanitizer to watch: `python -m benchmarks.gpu.tiny ENGINE`.

Every array has its own piece of device memory here, and not a part of the pool's: what is read or written beside it is
seen.
"""

import sys

from . import comparing, correctness, sizes
from .places import open_place

# The longest is replayed from graphs.
SHAPES = ((3, 2, 5, 33), (1, 1, 1, 64), (9, 12, 3, 24))


def main(engine, name="cuda"):
    place = open_place(name)
    place.check()
    if not place.rehearsal:
        place.xp.cuda.set_allocator(None)
    ran = 0
    for size in SHAPES:
        for kind in sizes.KINDS:
            if correctness.refusal(engine, kind, size, place):
                continue
            arrays = {name: place.array(value, kind) for name, value in comparing.draw(size, "float32").items()}
            comparing.run(arrays, engine=engine, precision=sizes.KINDS[kind].precision)
            place.synchronize()
            ran += 1
    print(f"{engine}: {ran} problems")


if __name__ == "__main__":
    main(*sys.argv[1:])
