#!/bin/sh
# image-library.sh: gets a prebuilt stable-diffusion.cpp and writes the launcher of the worker that uses it
# (share/workers/image_worker.py). Prints one line: the launcher. Asks the network nothing when all is there.
#
# The library is the one inside the Python package inferna; IMAGE_PACKAGE=inferna-cuda12, inferna-rocm or
# inferna-vulkan takes the build for a GPU. It wants Python 3.12 or newer; PYTHON names one.
. "$(dirname -- "$0")/lib.sh"

version=0.7.0
package=${IMAGE_PACKAGE:-inferna}
sha256_linux_x86_64=1d1603b86eb8fb23bf65ec6e5b328445537472d4f46167e274cdaef51980e384
kept=$(cache_dir)/image-worker
library=$kept/$package-$version

is_new() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null
}

# The first Python that is new enough: named, in the path, or one of several that pyenv keeps.
python_find() {
    for p in ${PYTHON:-} python3 python3.12 python3.13 python3.14 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9]*/bin/python3; do
        if is_new "$p"; then
            "$p" -c 'import sys; print(sys.executable)'
            return 0
        fi
    done
    return 1
}

library_get() {
    say "image library: getting the Python package $package $version"
    temp=$(mktemp -d "$kept/get.XXXXXX")
    trap 'rm -rf "$temp"' EXIT
    trap 'exit 1' HUP INT TERM
    "$python" -m pip download --no-cache-dir --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$temp" "$package==$version" >&2 || die "the package could not be fetched; the reason is above"
    case "$package $(uname -sm)" in
    "inferna Linux x86_64") sha256_check "$temp"/*.whl "$sha256_linux_x86_64" || die "not the pinned file" ;;
    esac
    "$python" -m zipfile -e "$temp"/*.whl "$temp/unpacked"
    rm -rf "$library"
    mv "$temp/unpacked" "$library"
}

python=$(python_find) || die "no Python 3.12 or newer here, which the prebuilt library wants; install one, name it with PYTHON=, or compile with \"make IMAGE=source\""
mkdir -p "$kept"
[ -d "$library/inferna" ] || library_get
cat >"$kept/run.new" <<RUN
#!/bin/sh
# Written by scripts/image-library.sh. Passive: threads that wait do not take the cores from chats.
PYTHONPATH='$library' PYTHONDONTWRITEBYTECODE=1 GGML_NO_BACKTRACE=1 OMP_WAIT_POLICY=passive exec '$python' '$root/share/workers/image_worker.py' "\$@"
RUN
chmod 755 "$kept/run.new"
mv "$kept/run.new" "$kept/run"
printf '%s\n' "$kept/run"
