#!/bin/sh
# tidy_root.sh ROOT: leaves of an unpacked Debian what a program needs to run. Copyrights stay.
set -e
root=$1
rm -rf "$root"/usr/share/man "$root"/usr/share/locale "$root"/usr/share/info "$root"/usr/share/lintian \
  "$root"/usr/share/bug "$root"/var/lib/apt "$root"/var/lib/dpkg "$root"/var/cache \
  "$root"/var/log "$root"/etc/apt "$root"/usr/include "$root"/usr/bin/dpkg* "$root"/usr/sbin/dpkg* \
  "$root"/usr/share/dpkg "$root"/usr/lib/x86_64-linux-gnu/gconv
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/usr/share/doc" -type d -empty -delete
# Nobody becomes somebody else in here.
find "$root" -xdev ! -type l -perm /6000 -exec chmod ug-s {} +
mkdir -p "$root/var/lib/omni" "$root/var/lib/etcd" "$root/tmp" "$root/etc"
chmod 1777 "$root/tmp"
printf '%s\n' root:x:0:0:root:/:/usr/sbin/nologin omni:x:10001:10001:Omni:/var/lib/omni:/usr/sbin/nologin \
  >"$root/etc/passwd"
printf 'root:x:0:\nomni:x:10001:\n' >"$root/etc/group"
chown 10001:10001 "$root/var/lib/omni" "$root/var/lib/etcd"
