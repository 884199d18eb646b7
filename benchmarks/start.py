"""A fresh process that imports a contender and asks it for a first result.

`python -m benchmarks.start CONTENDER PROBLEM REFERENCE` prints one line of JSON: the seconds that it took to import the
contender with all that it needs, NumPy included, and the seconds to the first result, that import included: the
contender is constructed (weights converted, a model built) and called once. Making the problem's arrays is not counted.
"""

import sys
from time import perf_counter

from . import rivals

BEGIN = perf_counter()  # with nothing imported yet that a contender could need


def main(contender, problem, reference):
    """Measure, then compare the result with the reference."""
    module, option = rivals.load(contender)
    imported = perf_counter()

    import json

    import numpy as np

    from .problems import Problem

    problem = Problem(**json.loads(problem))
    arrays = problem.arrays()
    ready = perf_counter()
    worker = module.Contender(problem, arrays, option)
    result = worker.inference()
    done = perf_counter()

    from .reference import check

    check(problem, worker, "inference", result, dict(np.load(reference)))
    print(json.dumps({"import_s": imported - BEGIN, "first_result_s": imported - BEGIN + done - ready}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
