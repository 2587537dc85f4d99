#!/bin/sh
# Nodes on a network that find each other: a real Avahi and a D-Bus of its own, in a network namespace. A node announces
# itself; a gateway tells of it, or uses it if it holds the key; one with another key is left alone.
cd "$(dirname -- "$0")" || exit 1
skip() {
    echo "skipped: $1"
    exit 77
}
PATH=$PATH:/usr/sbin:/sbin
for tool in avahi-daemon dbus-daemon ip; do
    command -v $tool >/dev/null || skip "$tool is not here"
done
unshare -rnm true 2>/dev/null || skip "this machine does not permit network namespaces"
exec unshare -rnm python3 - <<'PYTHON'
import json
import os
import subprocess
import sys

sys.path.insert(0, os.getcwd())
from e2e import BIN, DIR, Program, check, complete, get, nodes, tokens, wait_for

MODEL = "fake:prefill_us=300,decode_us=300"
HOST = "10.77.0.1"


def sh(*args):
    subprocess.run(args, check=True)


def other_key():
    path = DIR + "/other.key"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
        f.write(os.urandom(32).hex() + "\n")
    return path


# A network of one machine: the daemon hears itself.
sh("mount", "-t", "tmpfs", "tmpfs", "/run")
os.makedirs("/run/avahi-daemon")
sh("ip", "link", "add", "home0", "type", "veth", "peer", "name", "home1")
for args in (["addr", "add", HOST + "/24", "dev", "home0"], ["link", "set", "home0", "up"],
             ["link", "set", "home1", "up"], ["link", "set", "lo", "up"]):
    sh("ip", *args)

# The daemon looks its user up, though it stays what it is here: nobody else is in this namespace.
for name, line in (("passwd", "avahi:x:0:0::/run:/bin/false\n"), ("group", "avahi:x:0:\n")):
    with open("/etc/" + name) as old, open(DIR + "/" + name, "w") as new:
        new.write(line + old.read())
    sh("mount", "--bind", DIR + "/" + name, "/etc/" + name)

BUS = "unix:path=%s/bus" % DIR
os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = BUS
with open(DIR + "/bus.conf", "w") as f:
    f.write("""<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>%s</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>""" % BUS)
with open(DIR + "/avahi.conf", "w") as f:
    f.write("[server]\nhost-name=box\nuse-ipv6=no\nallow-interfaces=home0\nenable-dbus=yes\n")
bus = subprocess.Popen(["dbus-daemon", "--nofork", "--nopidfile", "--config-file=" + DIR + "/bus.conf"])
wait_for("the bus", lambda: os.path.exists(DIR + "/bus"))
avahi = subprocess.Popen(["avahi-daemon", "--no-drop-root", "--no-chroot", "--no-rlimits", "-f", DIR + "/avahi.conf"],
                         stderr=open(DIR + "/avahi.log", "w"))


def listed():
    p = subprocess.run([os.path.join(BIN, "tandem"), "node", "--list", "--json"], capture_output=True, text=True)
    if p.returncode != 0 and "no DNS-SD here" in p.stderr:
        print("skipped: libdns_sd.so.1 is not here")
        sys.exit(0)
    if p.returncode != 0:
        sys.stderr.write(p.stderr)  # the daemon is not up yet
        return None
    return json.loads(p.stdout)["seen"]


try:
    wait_for("the responder", lambda: listed() is not None)
    p = Program("node", "-m", MODEL, "--listen", HOST + ":0", "--name", "spark", "--announce-models")
    # Of another household: the same network, another key.
    stranger = subprocess.Popen([os.path.join(BIN, "tandem"), "node", "-m", MODEL, "--listen", HOST + ":7999", "--name", "stranger"],
                                env=dict(os.environ, TANDEM_KEY_FILE=other_key(), TANDEM_STATE=DIR), stderr=open(DIR + "/stranger.log", "w"))
    d = Program("serve", "-m", MODEL, "--listen", "127.0.0.1:0", "--name", "studio")
    u = Program("serve", "-m", MODEL, "--listen", "127.0.0.1:0", "--name", "user", "--discover")

    # What is there, and what of it is told.
    seen = wait_for("both", lambda: len(listed() or []) == 2 and listed())
    spark = [s for s in seen if s["name"] == "spark"][0]
    check(spark["address"] == "%s:%d" % (HOST, p.port), seen)
    check(spark["models"] and len(spark["id"]) == 32, seen)
    check([s for s in seen if s["name"] == "stranger"][0]["models"] is None, seen)

    # Suggested, and no more.
    told = wait_for("a suggestion", lambda: [s for s in get(d.port, "/v1/tandem/status")[1]["seen"] if s["name"] == "spark"])
    check(told[0]["address"] == spark["address"], told)
    check(nodes(d.port, "prefill") == [], nodes(d.port, "prefill"))
    text = subprocess.run([os.path.join(BIN, "tandem"), "ps", "--facts", "--server", "http://127.0.0.1:%d" % d.port],
                          capture_output=True, text=True).stdout
    check("Seen on the network, not used" in text and spark["address"] in text, text)
    check("cores of" in text and "GiB" in text, text)

    # Used, because it holds the key.
    wait_for("the node", lambda: [n for n in nodes(u.port, "prefill") if n["name"] == "spark" and n["state"] == "up"])
    node = [n for n in nodes(u.port, "prefill") if n["name"] == "spark"][0]
    check(node["node_id"] == spark["id"] and not node["added"], node)
    status, answer = complete(u.port, tokens(300, 1), "hybrid", 4)
    check(status == 200 and answer["timings"]["plan"] == "hybrid", answer)

    # The other one is tried, found wanting and left alone, and the status says why.
    told = wait_for("a refusal", lambda: [s for s in get(u.port, "/v1/tandem/status")[1]["seen"]
                                          if s["name"] == "stranger" and s["why"]], 30)
    check([n["name"] for n in nodes(u.port, "prefill")] == ["spark"], nodes(u.port, "prefill"))

    # A node that stops takes its announcement back; a responder that ends takes nothing along.
    p.stop()
    wait_for("its going", lambda: not [s for s in get(d.port, "/v1/tandem/status")[1]["seen"] if s["name"] == "spark"])
    avahi.kill()
    wait_for("nothing", lambda: get(d.port, "/v1/tandem/status")[1]["seen"] == [])
    status, answer = complete(u.port, tokens(30, 2), "local", 4)
    check(status == 200, answer)
    print("discovery: ok")
except AssertionError:
    print(open(DIR + "/avahi.log").read()[-2000:])
    raise
finally:
    for process in (avahi, bus):
        process.kill()
        process.wait()
    if "stranger" in dir():
        stranger.terminate()
        stranger.wait()
PYTHON
