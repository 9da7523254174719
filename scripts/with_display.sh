#!/bin/sh
# Run a command with a display: the user's own, or, on Linux without one, a
# virtual one of a size that people have. napari draws by OpenGL, which Qt's
# "offscreen" platform lacks.
set -eu
if [ "$(uname)" != Linux ] || [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
    exec "$@"
fi
if ! command -v xvfb-run >/dev/null; then
    echo "No display, and xvfb-run was not found. Install your system's xvfb and xauth." >&2
    exit 1
fi
exec xvfb-run -a -s "-screen 0 1600x1000x24" "$@"
