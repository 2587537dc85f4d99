#!/bin/sh
# deps.sh [build] [check] [cross] [clients] [cluster]: installs what is missing from the system's package manager (apt-get
# or brew), and nothing else. Default: build. Asks the network nothing when all is there.
. "$(dirname -- "$0")/lib.sh"

# What is needed: group, how to tell that it is there (a command, a pkg-config module, a library), and its
# package for apt and for brew ("-": comes with the system or does not apply there).
needs='
build command cmake                    cmake                    cmake
build command make                     make                     -
build command ninja                    ninja-build              ninja
build command pkg-config               pkg-config               pkgconf
build command git                      git                      git
build command curl                     curl                     -
build pip     python3                  python3-pip              -
build module  libmicrohttpd            libmicrohttpd-dev        libmicrohttpd
build module  gnutls                   libgnutls28-dev          gnutls
build module  libcurl                  libcurl4-gnutls-dev      curl
build module  jansson                  libjansson-dev           jansson
build module  sqlite3                  libsqlite3-dev           sqlite
build module  inih                     libinih-dev              inih
build module  libzstd                  libzstd-dev              zstd
build module  libxxhash                libxxhash-dev            xxhash
build module  libpng                   libpng-dev               libpng
build module  libjpeg                  libjpeg-dev              jpeg-turbo
build module  libwebp                  libwebp-dev              webp
build module  cmocka                   libcmocka-dev            cmocka
check command clang                    clang                    -
check command clang-format             clang-format             clang-format
check command clang-tidy               clang-tidy               -
check command valgrind                 valgrind                 -
check fuzzer  clang                    libclang-rt-14-dev       -
cluster command sbatch                   slurm-wlm                -
cluster command munged                   munge                    -
cluster command sshd                     openssh-server           -
cluster command ssh                      openssh-client           -
cluster command flock                    util-linux               -
cluster command avahi-daemon             avahi-daemon             -
cluster library libdns_sd.so.1           libavahi-compat-libdnssd1 -
cluster command ip                       iproute2                 -
cross command aarch64-linux-gnu-gcc    gcc-aarch64-linux-gnu    -
cross command qemu-aarch64-static      qemu-user-static         -
clients venv    python3                python3-venv             -
clients command npm                    npm                      node
clients command strace                 strace                   -
clients command unshare                util-linux               -
'

has() {
    case $1 in
    command) command -v "$2" >/dev/null 2>&1 || [ -x "/usr/sbin/$2" ] ;;
    module) pkg-config --exists "$2" 2>/dev/null ;;
    library) /sbin/ldconfig -p 2>/dev/null | grep -q "$2" ;;
    pip) "$2" -m pip --version >/dev/null 2>&1 ;;
    venv) "$2" -c 'import ensurepip, venv' >/dev/null 2>&1 ;;
    fuzzer) ls "$("$2" -print-resource-dir 2>/dev/null)"/lib/*/libclang_rt.fuzzer* >/dev/null 2>&1 ;;
    esac
}

# The package names of what is missing in the groups given; $1 is the column of the manager.
missing() {
    column=$1
    shift
    printf '%s\n' "$needs" | while read -r group kind name apt brew; do
        case " $* " in
        *" ${group:-none} "*) ;;
        *) continue ;;
        esac
        has "$kind" "$name" && continue
        [ "$column" = apt ] && printf '%s ' "$apt"
        [ "$column" = brew ] && [ "$brew" != - ] && printf '%s ' "$brew"
        continue
    done
}

# The fuzzer's runtime carries clang's version in its package name.
runtime_name() {
    version=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p')
    printf '%s\n' "$1" | sed "s/libclang-rt-14-dev/libclang-rt-${version:-14}-dev/"
}

install_apt() {
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 || die "not root and no sudo; as root, install: $*"
        as_root=sudo
    fi
    say "deps: apt-get installs $*"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
    packages=$(runtime_name "$*")
    # shellcheck disable=SC2086  # a list of names
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends $packages >&2
}

[ $# -gt 0 ] || set -- build
if [ "$(uname)" = Darwin ]; then
    command -v brew >/dev/null 2>&1 || die "Homebrew is missing: see its site for how to install it"
    packages=$(missing brew "$@")
    # shellcheck disable=SC2086
    [ -z "$packages" ] || { say "deps: brew installs $packages" && brew install $packages >&2; }
else
    packages=$(missing apt "$@")
    if [ -n "$packages" ]; then
        command -v apt-get >/dev/null 2>&1 || die "no apt-get here; install these yourself: $packages"
        # shellcheck disable=SC2086
        install_apt $packages
    fi
fi
