"""The rounds: every contender in a process of its own, taking turns."""

import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles

from . import ceiling, machine

# What a worker says of itself, for the record.
ABOUT = ("details", "rounding", "versions", "pools")


class Failed(Exception):
    """A contender gave no result; the message says why in one line."""


class Worker:
    """The parent's end of a `benchmarks.worker` process."""

    def __init__(self, name, device):
        self.name, self.device = name, device
        self.start()

    def start(self):
        command = [sys.executable, "-m", "benchmarks.worker", self.name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=machine.environment()
        )
        try:
            self.ask(do="load", device=self.device)
        except Failed:
            self.close()
            raise

    def ask(self, **request):
        """Send a request, wait for the answer; `Failed` if there is none."""
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"its process ended with exit status {self.process.wait()}")
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def open(self, problem, whats, reference):
        """Prepare and validate a problem, in a new process if the old one has ended."""
        if self.process.poll() is not None:
            self.close()
            self.start()
        return self.ask(do="open", problem=problem._asdict(), whats=whats, reference=reference)

    def close(self):
        self.process.kill()
        self.process.wait()
        with suppress(BrokenPipeError):  # what the process did not read
            self.process.stdin.close()
        self.process.stdout.close()


def start(names, device, say):
    """A worker for each contender that can be loaded, and the reasons why the others cannot."""
    workers, absent = [], {}
    for name in names:
        say(f"starting {name}")
        try:
            workers.append(Worker(name, device))
        except Failed as failure:
            absent[name] = str(failure)
    return workers, absent


def measure(problem, whats, workers, gauge, rounds, seconds, say):
    """Validate all workers on a problem, then time them in alternating rounds; one record per worker and what."""
    say(f"{problem.name}: float64 reference")
    opened, failures, times = {}, {}, {}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        reference = reference_file(problem, whats, Path(folder) / "reference.npz")
        for worker in workers:
            say(f"{problem.name}: validating {worker.name}")
            try:
                opened[worker] = answer = worker.open(problem, whats, reference)
                times |= {(worker, what): [] for what in answer["errors"]}
                failures |= {(worker, what): reason for what, reason in answer["refused"].items()}
            except Failed as failure:
                failures |= {(worker, what): str(failure) for what in whats}
    opened[gauge] = gauge.open(problem, [], None)
    times |= {(gauge, product): [] for product in ceiling.PRODUCTS}

    for number, order in enumerate(orders([*workers, gauge], rounds)):
        for worker in order:
            for what in [what for of, what in times if of is worker and (worker, what) not in failures]:
                say(f"{problem.name}: round {number + 1} of {rounds}, {worker.name} {what}")
                try:
                    times[worker, what].append(worker.ask(do="time", what=what, seconds=seconds)["times"])
                except Failed as failure:
                    if worker is gauge:
                        raise
                    failures[worker, what] = str(failure)

    common = {**sizes(problem), "rounds": rounds, "seconds": seconds}
    rates = {what: ceiling.flop(what) / statistics(times[gauge, what])["median_s"] / 1e9 for what in ceiling.PRODUCTS}
    records = []
    for worker, what in dict.fromkeys([*times, *failures]):
        if worker is gauge:
            continue
        record = {"contender": worker.name, "what": what, **common, "failed": failures.get((worker, what))}
        if not record["failed"]:
            record |= statistics(times[worker, what])
            record["gflops"] = problem.flop(what) / record["median_s"] / 1e9
            record["share_of_gemm"] = record["gflops"] / max(rates.values())
            record["us_per_step"] = record["median_s"] / problem.T * 1e6
            record["error_share_of_limit"] = opened[worker]["errors"][what]
        about = opened.get(worker, {})
        record |= {"gemm_gflops": rates, "gemm_pools": opened[gauge]["pools"]}
        record |= {key: about.get(key) for key in ABOUT}
        records.append(record)
    return records


def orders(workers, rounds):
    """The order of each round: every other one goes backwards, and after two the first becomes the last.

    So nobody always follows the same neighbour, and what drifts (clock frequency, other work on the machine) drifts for
    all alike.
    """
    for number in range(rounds):
        turned = number // 2 % len(workers)
        order = workers[turned:] + workers[:turned]
        yield order[::-1] if number % 2 else order


def sizes(problem):
    """What a record says of a problem."""
    return {"size" if key == "name" else key: value for key, value in problem._asdict().items()}


def statistics(rounds):
    """Median and quartiles over the calls of all rounds, and each round's median."""
    calls = [time for taken in rounds for time in taken]
    q1, middle, q3 = quantiles(calls, n=4, method="inclusive") if len(calls) > 1 else 3 * calls
    return {
        "median_s": middle,
        "q1_s": q1,
        "q3_s": q3,
        "min_s": min(calls),
        "calls": len(calls),
        "round_medians_s": [median(taken) for taken in rounds],
    }


def reference_file(problem, whats, file):
    """Have the float64 reference of a problem written, and say where."""
    command = [sys.executable, "-m", "benchmarks.reference", json.dumps(problem._asdict()), ",".join(whats), str(file)]
    done = subprocess.run(command, env=machine.environment(), stderr=subprocess.PIPE, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise Failed(f"{problem.name}: no float64 reference: {reason}")
    return str(file)
