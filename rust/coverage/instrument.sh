#!/bin/sh
# Runs rustc for a crate of the workspace, and has it count what runs. Dependencies stay as `make test` builds them.
exec "$@" -Cinstrument-coverage
