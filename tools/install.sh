#!/bin/sh
# Installs the locked packages, each by its hash, and then the distributions of this repository:
#
#     sh tools/install.sh PYTHON [OPTION OF PIP]...
#
# A torch of the locked version that works already stays, since images have a build of their own.
# Without an NVIDIA driver, the CPU build is installed if pip finds the one that is locked. In all
# other cases it is the build of the package registry, with its CUDA packages.
set -eu
python=$1
shift
pip() { "$python" -m pip --disable-pip-version-check install --no-deps "$@"; }

version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' requirements-torch.txt)
works="import sys, torch; sys.exit(torch.__version__.partition('+')[0] != '$version')"
if ! "$python" -c "$works" 2> /dev/null; then
    if command -v nvidia-smi > /dev/null ||
        ! pip "$@" --require-hashes -r requirements-torch-cpu.txt 2> /dev/null; then
        pip "$@" --require-hashes -r requirements-torch.txt
    fi
fi
pip "$@" --require-hashes -r requirements.txt

# The build backend is in a folder of its own, and so not among the packages of the environment. It
# stays there, so that a machine with an image of the Dockerfile asks no package registry for it.
build=$("$python" -c 'import sys; print(sys.prefix)')/build-backend
if ! mkdir -p "$build" 2> /dev/null || ! [ -w "$build" ]; then
    cmp -s requirements-build.txt "$build/requirements-build.txt" || build=$(mktemp -d)
fi
if ! cmp -s requirements-build.txt "$build/requirements-build.txt"; then
    rm -rf "$build"
    pip "$@" --target "$build" --require-hashes -r requirements-build.txt
    cp requirements-build.txt "$build"
fi
export PYTHONPATH="$build${PYTHONPATH:+:$PYTHONPATH}"
# This distribution was called `ablation` until version 0.2: both would bring the same program.
if "$python" -c 'from importlib.metadata import version; version("ablation")' 2> /dev/null; then
    "$python" -m pip uninstall --quiet --yes ablation
fi
for project in packages/*/pyproject.toml pyproject.toml; do
    [ ! -f "$project" ] || pip "$@" --no-build-isolation --editable "$(dirname "$project")"
done
