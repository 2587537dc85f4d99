"""A client's table of checks: functions without arguments whose names say what they show."""

import base64
import json
import os
import struct
import signal
import sys
import time
import traceback
import urllib.request
import zlib

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


def picture(red, green, blue, side=32):
    """A PNG of one colour, as base64. The server's model sees three: red, green and blue."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    rows = (b"\0" + bytes((red, green, blue)) * side) * side
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")).decode()


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
