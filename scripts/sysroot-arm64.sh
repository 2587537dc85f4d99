#!/bin/sh
# Makes a folder with the 64-bit ARM packages of this Debian's own archive that our code needs, and
# prints its path. Nothing is installed: apt works on a package database of its own inside the
# cache folder, downloads (about 30 MB), and the packages are unpacked, not configured.
. "$(dirname -- "$0")/lib.sh"

packages='libc6-dev linux-libc-dev libmicrohttpd-dev libgnutls28-dev libcurl4-gnutls-dev
    libjansson-dev libsqlite3-dev libinih-dev libcmocka-dev libzstd-dev libxxhash-dev
    libpng-dev libjpeg-dev libwebp-dev'
# shellcheck disable=SC1091
release=$(. /etc/os-release && echo "$ID-$VERSION_ID")
# Another list of packages is another folder.
sysroot=$(cache_dir)/sysroot-arm64-$release-$(printf '%s' "$packages" | cksum | cut -d' ' -f1)

if [ ! -f "$sysroot/COMPLETE" ]; then
    say "sysroot: getting the arm64 libraries (about 30 MB) into $sysroot"
    rm -rf "$sysroot"
    apt=$sysroot/apt
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$sysroot/usr/lib"
    # The archive's packages hold /lib as well as /usr/lib; one folder saves repairing absolute links.
    ln -s usr/lib "$sysroot/lib"
    : >"$apt/status"
    cat >"$apt/apt.conf" <<CONF
Dir::State "$apt/state";
Dir::Cache "$apt/cache";
Dir::State::status "$apt/status";
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "root";
CONF
    export APT_CONFIG="$apt/apt.conf"
    apt-get update -q >&2
    # shellcheck disable=SC2086
    apt-get install -q -y --no-install-recommends --download-only $packages >&2
    for deb in "$apt"/cache/archives/*.deb; do
        dpkg-deb -x "$deb" "$sysroot/unpack"
        [ -d "$sysroot/unpack/lib" ] && cp -a "$sysroot/unpack/lib/." "$sysroot/usr/lib/"
        [ -d "$sysroot/unpack/usr" ] && cp -a "$sysroot/unpack/usr/." "$sysroot/usr/"
        rm -rf "$sysroot/unpack"
    done
    rm -rf "$apt"
    # Links to absolute paths would leave the folder.
    find "$sysroot" -type l -lname '/*' | while read -r link; do
        ln -sfn "$sysroot$(readlink "$link")" "$link"
    done
    touch "$sysroot/COMPLETE"
fi
printf '%s\n' "$sysroot"
