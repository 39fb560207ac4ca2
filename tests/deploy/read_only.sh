# Runs a command in a mount namespace of its own as the compose files and manifests run a service: on a root that nobody
# writes to, with an empty directory in memory for what is temporary, as user 10001 without rights.
#   unshare --mount sh read_only.sh DIRECTORY COMMAND…
# One right is left, to read any file: the interpreter of the tests may stand where only its owner looks.
set -eu
temporary=$1
shift
mount --make-rprivate /
mount -t tmpfs tmpfs "$temporary"
cut -d" " -f5 /proc/self/mountinfo | while read -r at; do
  case $at in
  /proc | /proc/* | /sys | /sys/* | /dev | /dev/* | "$temporary") ;;
  *) [ ! -e "$at" ] || mount -o remount,ro,bind "$at" ;;
  esac
done
if touch "$temporary.probe" 2>/dev/null; then
  echo "$temporary.probe was written: the root is not read-only" >&2
  exit 1
fi
chmod 1777 "$temporary"
export TMPDIR="$temporary" HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --inh-caps=-all,+dac_read_search \
  --ambient-caps=-all,+dac_read_search --bounding-set=-all,+dac_read_search "$@"
