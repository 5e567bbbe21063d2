#!/bin/sh
# Removes the named files and folders of this folder, after a question that lists their sizes.
# With CLEAN=yes in the environment it does not ask. A link is removed, and what it leads to stays.
set -eu
for name do
  shift
  if [ -e "$name" ] || [ -L "$name" ]; then set -- "$@" "$name"; fi
done
if [ $# -eq 0 ]; then
  echo "There is nothing to remove."
  exit
fi
echo "In $PWD would be removed:"
du -sh -- "$@"
if [ "${CLEAN:-}" != yes ]; then
  printf 'Remove them? Results that were not pushed are lost. [y/N] '
  read -r answer || echo
  case "${answer:-}" in
    y | Y | yes | Yes | YES) ;;
    *) echo "Nothing was removed. CLEAN=yes removes without a question." >&2; exit 1 ;;
  esac
fi
rm -rf -- "$@"
echo "Removed: $*"
