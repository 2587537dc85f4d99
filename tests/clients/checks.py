"""A client's table of checks: functions without arguments whose names say what they show."""

import json
import os
import signal
import sys
import time
import traceback
import urllib.request

REAL = os.environ.get("CLIENT_REAL", "")
SCRIPTED = os.environ.get("CLIENT_SCRIPTED", "")
DIRECT = os.environ.get("CLIENT_DIRECT_REAL", "")
SECONDS = 120  # one check


def late(*_):
    raise TimeoutError("no end after %d s" % SECONDS)


def run(client, checks):
    failed = []
    signal.signal(signal.SIGALRM, late)
    for check in checks:
        signal.alarm(SECONDS)
        begun = time.monotonic()
        try:
            check()
            print("ok     %s: %s, %.1f s" % (client, check.__name__, time.monotonic() - begun), flush=True)
        except Exception:
            failed.append(check.__name__)
            print("FAILED %s: %s\n%s" % (client, check.__name__, traceback.format_exc()[-3000:]), flush=True)
        signal.alarm(0)
    sys.exit("%s: failed: %s" % (client, ", ".join(failed)) if failed else 0)


def model(base):
    with urllib.request.urlopen(base + "/v1/models") as r:
        return json.load(r)["data"][0]["id"]


def raises(kind, call):
    """The error of a call that has to fail."""
    try:
        call()
    except kind as e:
        return e
    raise AssertionError("%s was not raised" % kind.__name__)


def idle(base=DIRECT, seconds=10):
    """After a client left: the server works for nobody."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with urllib.request.urlopen(base + "/v1/tandem/status") as r:
            status = json.load(r)
        if not status["requests"]:
            return
        time.sleep(0.05)
    raise AssertionError("still at work: %s" % status["requests"])
