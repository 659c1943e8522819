"""Requests are counted as the command reads them."""

import json

from testbed.load import Load


def requests_are_counted_by_tenth_second_and_version(tmp_path):
    file = tmp_path / "requests.jsonl"
    lines = [
        {"at": 1790000000.1, "presenter": "a", "status": 200, "version": 1},
        {"at": 1790000000.199, "presenter": "b", "status": 200, "version": 1},
        {"at": 1790000000.9, "presenter": "b", "status": 200, "version": 2},
        {"at": 1790000001.0, "presenter": "a", "status": 401},
        {"at": 1790000001.0, "presenter": "a", "status": 0, "error": "reset"},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    load = Load(file)
    load.read()
    assert load.each_tenth() == [
        {"at": "2026-09-21T14:13:20.100+00:00", "version": 1, "accepted": 2},
        {"at": "2026-09-21T14:13:20.900+00:00", "version": 2, "accepted": 1},
        {"at": "2026-09-21T14:13:21.000+00:00", "version": None, "failed": 2},
    ]
