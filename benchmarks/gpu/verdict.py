"""What a result says: which numbers are wrong, and what was not measured."""


def is_wrong(record):
    """Whether a number is wrong, or there is none; where the device was full, nothing was proved or refuted."""
    return bool(record.get("wrong")) and "OutOfMemoryError" not in record["wrong"]


def wrong(result):
    """One line for each wrong number: what an engine returned, or what compute-sanitizer found."""
    return [f"{_where(record)}: {record['wrong']}" for record in result["records"] if is_wrong(record)]


def unmeasured(result):
    """One line for each thing that failed or was refused for a reason that is not in its nature."""
    return [f"{_where(record)}: {record.get('failed') or record['wrong']}" for record in result["records"]
            if (record.get("failed") or record.get("wrong")) and not is_wrong(record)]  # fmt: skip


def unfinished(result):
    """Part -> how many pieces of it no time was left for; parts without any are not there."""
    found = {name: len(part["out_of_time"]) for name, part in result["parts"].items()}
    return {name: count for name, count in found.items() if count}


def exit_status(result):
    """1 if a number is wrong, else 0: neither slowness nor a contender that failed is a wrong number.

    Unless nothing at all was proved, where correctness was to be: that is no pass. The status is then 3.
    """
    if wrong(result):
        return 1
    asked = "correctness" in result["parts"]
    proved = any(record["part"] == "correctness" and "share" in record for record in result["records"])
    return 3 if asked and not proved else 0


def _where(record):
    size = ",".join(map(str, record["size"])) if "size" in record else ""
    words = (record["part"], record.get("engine") or record.get("contender"), record.get("kind"), record.get("what"),
             record.get("tool") or record.get("latency") or record.get("ceiling"), size)  # fmt: skip
    return " ".join(word for word in words if word)
