#!/bin/sh
# Boots this machine's systemd as process 1 of namespaces of its own, with a copy of the root file
# system that is thrown away (overlayfs), no network but a loopback, and no units but some.
#
#   systemd.sh FOLDER PROJECT DENO DENO_DIR
#
# FOLDER has the unit files in units/, which are found there at /units, and an empty scratch/.
# PROJECT is found at /opt/floodgate, and DENO at /usr/local/bin/deno.
# Ends with status 77 where that cannot be had: it takes root, overlayfs and a cgroup2 to write to.
set -u
skip() {
  echo "$*" >&2
  exit 77
}

if [ "${1:-}" != inside ]; then
  [ "$(id -u)" = 0 ] || skip "this takes root"
  [ -x /lib/systemd/systemd ] || skip "there is no systemd"
  cgroups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
  [ -n "$cgroups" ] || skip "there is no cgroup2"
  own=$cgroups$(sed -n 's/^0:://p' /proc/self/cgroup)/floodgate-test-$$
  mkdir "$own" 2>/dev/null && echo $$ 2>/dev/null >"$own/cgroup.procs" ||
    skip "there is no cgroup2 that can be written to"
  # The caller may be cut off.
  exec setpriv --pdeathsig KILL \
    unshare --mount --pid --fork --uts --ipc --net --cgroup --kill-child "$0" inside "$@"
fi

units=$2/units scratch=$2/scratch project=$3 deno=$4 cache=$5
root=$scratch/root
mount -t tmpfs tmpfs "$scratch" && mkdir "$root" "$scratch/upper" "$scratch/work" &&
  mount -t overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$root" ||
  skip "there is no overlayfs"
mount -t proc proc "$root/proc" && mount -t sysfs -o ro sysfs "$root/sys" &&
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup" && mount -t tmpfs tmpfs "$root/run" &&
  mount -t tmpfs -o mode=755 tmpfs "$root/dev" || skip "its file systems cannot be mounted"
for device in null zero full random urandom tty; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

mkdir -p "$root/units" "$root/opt/floodgate/.deno" "$root/old"
cp /lib/systemd/system/*.target "$root/units" && cp -r "$units"/. "$root/units"
(cd "$project" && cp -r ./*.ts deno.json builtins cli engine examples offline platform profiler \
  router serve "$root/opt/floodgate")
mount --bind "$cache" "$root/opt/floodgate/.deno"
: >"$root/usr/local/bin/deno"
mount --bind "$deno" "$root/usr/local/bin/deno"
chmod -R go+rX "$root/units" "$root/opt/floodgate/"*

cd "$root" && pivot_root . old && umount -l /old && mount --make-rshared / ||
  skip "the root cannot be changed"
export container=test SYSTEMD_UNIT_PATH=/units
exec /lib/systemd/systemd --system --show-status=no --unit=basic.target
