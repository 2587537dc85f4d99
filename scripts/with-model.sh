#!/bin/sh
# with-model.sh COMMAND...: runs it with TANDEM_TEST_MODEL set to the bench model, getting that if needed.
. "$(dirname -- "$0")/lib.sh"

if [ -z "${TANDEM_TEST_MODEL:-}" ]; then
    TANDEM_TEST_MODEL=$("$root/scripts/model.sh")
    export TANDEM_TEST_MODEL
fi
exec "$@"
