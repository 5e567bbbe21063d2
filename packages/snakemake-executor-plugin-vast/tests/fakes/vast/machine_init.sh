#!/bin/bash
# First process of a fake machine: builds its own root, starts sshd and onstart, then holds on to
# its power cord. It runs in mount, process and host name spaces of its own, so that nothing of
# the driver is visible here but the programs, and so that all processes end with this one.
#
# DISK the machine's root folder   SKEL what a new disk holds   BIN its /usr/local/bin
# KEYS root's .ssh   VISIBLE folders to show read-only, by ':'
# LACKS programs to hide, by ':'
# DISK_MB if set: a disk of that size, lost on stop   VOLUME if set: a folder for MOUNT
# SSHD who starts the ssh server: the service, or the container's command
set -eu
exec 3<&0 </dev/null

if [ -n "$DISK_MB" ]; then mount -t tmpfs -o "size=${DISK_MB}m" disk "$DISK"; else mount --bind "$DISK" "$DISK"; fi
cd "$DISK"
[ -e etc ] || cp -a "$SKEL/." .

if [ -n "$VOLUME" ]; then
    if [ -n "$DISK_MB" ]; then mount -t tmpfs -o "size=${DISK_MB}m" volume "$VOLUME"; fi
    mkdir -p ".$MOUNT"
    mount --bind "$VOLUME" ".$MOUNT"
fi

show() { # folder, where
    mkdir -p ".$2"
    mount --bind "$1" ".$2"
    mount -o remount,bind,ro ".$2"
}
show /usr /usr
show "$BIN" /usr/local/bin
for folder in /bin /sbin /lib /lib32 /lib64 /libx32; do
    if [ -L "$folder" ]; then cp -PfT "$folder" ".$folder"; elif [ -d "$folder" ]; then show "$folder" "$folder"; fi
done
for folder in /etc/ssl /etc/alternatives; do [ ! -d "$folder" ] || show "$folder" "$folder"; done
IFS=:
for folder in $VISIBLE; do show "$folder" "$folder"; done
if [ -n "$LACKS" ]; then
    show /usr /opt/usr
    mount -t tmpfs bin ./usr/bin
    programs=(./opt/usr/bin/*)
    ln -s -t ./usr/bin "${programs[@]#.}"
    for program in $LACKS; do rm "./usr/bin/$program"; done
fi
unset IFS

mkdir -p proc sys dev tmp run/sshd mnt root/.ssh
mount --bind "$KEYS" root/.ssh
chmod 1777 tmp
mount -t proc proc proc
mount -t tmpfs -o mode=755,size=1m dev dev
mkdir dev/pts dev/shm
for device in null zero full random urandom tty; do touch "dev/$device" && mount --bind "/dev/$device" "dev/$device"; done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
echo "$HOSTNAME" > /proc/sys/kernel/hostname

pivot_root . mnt
cd /root
umount -l /mnt
sshd=$SSHD
unset DISK SKEL BIN KEYS DISK_MB LACKS VISIBLE VOLUME MOUNT SSHD

# The environment of the container reaches onstart; sshd gives its sessions a fresh one.
if [ "$sshd" = service ]; then /usr/sbin/sshd -D -e 3<&- 2>> /var/log/sshd.log & fi
if [ -s onstart.sh ]; then bash onstart.sh 3<&- >> /var/log/onstart.log 2>&1 & fi

# The other end of fd 3 is held by the fake. Bash reaps orphans while it waits.
cat <&3 > /dev/null &
wait $!
