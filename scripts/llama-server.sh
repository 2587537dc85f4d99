#!/bin/sh
# llama-server.sh: builds llama-server from the pinned source, in the build folder of the libraries that the
# worker links, so that both run the same compute code. Kept in the cache folder. Prints one line: its path.
. "$(dirname -- "$0")/lib.sh"

dir=$(cmake -DBACKEND="${BACKEND:-cpu}" -P "$root/scripts/llama.cmake" | sed -n 's/^LLAMA_DIR=//p')
[ -n "$dir" ] || die "llama.cpp could not be built; the reason is above"
if [ ! -x "$dir/bin/llama-server" ]; then
    say "llama-server: building it, once per machine"
    cmake -S "$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$dir/build/CMakeCache.txt")" -B "$dir/build" \
        -DLLAMA_BUILD_SERVER=ON --log-level=WARNING >&2
    nice cmake --build "$dir/build" -j "${JOBS:-2}" --target llama-server >&2
    mkdir -p "$dir/bin"
    cp "$dir/build/bin/llama-server" "$dir/bin/llama-server.new"
    mv "$dir/bin/llama-server.new" "$dir/bin/llama-server"
fi
printf '%s\n' "$dir/bin/llama-server"
