#!/bin/sh
# The checkers under scripts/ accept a clean tree and find each planted violation.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failed=0

plant() { # plant FILE TEXT: a clean tree with one file in it
    rm -rf "$tree/src"
    mkdir -p "$tree/src/base" "$tree/src/net" "$tree/src/engine" "$tree/src/gateway"
    touch "$tree/src/base/err.h" "$tree/src/net/net.h" "$tree/src/engine/engine.h"
    printf '%s\n' "$2" >"$tree/src/$1"
}

accepts() { # accepts CHECK FILE TEXT
    plant "$2" "$3"
    if ! "$root/scripts/check-$1.sh" "$tree" >"$tree/out" 2>&1; then
        echo "check-$1 refuses $2: $3"
        cat "$tree/out"
        failed=1
    fi
}

refuses() { # refuses CHECK FILE TEXT
    plant "$2" "$3"
    if "$root/scripts/check-$1.sh" "$tree" >"$tree/out" 2>&1; then
        echo "check-$1 accepts $2: $3"
        failed=1
    elif ! grep -q "src/$2" "$tree/out"; then
        echo "check-$1 does not name src/$2"
        failed=1
    fi
}

accepts includes gateway/a.c '#include "net/net.h"'
accepts includes engine/llama_a.c '#include "llama.h"'
accepts includes base/a.c '#include <stdio.h>'
accepts includes engine/llama_a.cpp '#include "log.h"'
refuses includes engine/llama_a.c '#include "log.h"'
refuses includes base/a.c '#include "net/net.h"'
refuses includes base/a.c '  #  include   "net/net.h"'
refuses includes engine/a.c '#include "net/net.h"'
refuses includes net/a.h '#include "engine/engine.h"'
refuses includes gateway/a.c '#include "llama.h"'
refuses includes gateway/a.c '#include <llama.h>'
refuses includes engine/a.c '#include "ggml-backend.h"'
refuses includes net/a.c '#include "net.h"'
refuses includes gateway/a.cpp 'class a;'

accepts banned base/a.c 'int n = snprintf(a, sizeof a, "%d", 1); // not sprintf('
accepts banned base/a.c 'x->system(1); my_system(2); int atoi_count;'
accepts banned base/a_linux.c '#ifdef __linux__'
for name in strcpy strcat sprintf gets strtok atoi system popen alloca; do
    refuses banned base/a.c "    r = $name (a, b);"
done
refuses banned base/a.c 'typedef struct a { int b; } a_t;'
accepts banned base/a.c 'typedef enum result route(struct a *b);'
refuses banned base/a.c 'typedef struct a'
refuses banned base/a.c '#ifdef __APPLE__'
refuses banned base/a.c '// TODO: later'

[ "$failed" -eq 0 ] && echo "every planted violation was found"
exit "$failed"
