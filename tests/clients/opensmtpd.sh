#!/usr/bin/env bash
# Runs OpenSMTPD, unpacked but not installed, in a mount namespace of its own: the machine's mail setup is neither seen nor
# touched. Delivers mail for anyone to a Maildir, without TLS: this version's key process fails under OpenSSL 3. Needs root.
# usage: opensmtpd.sh ROOT PORT MAILDIR      ROOT: where scripts/setup unpacked the package
set -euo pipefail
if [ "${OPENSMTPD_INSIDE:-}" != yes ]; then
  export OPENSMTPD_INSIDE=yes
  exec unshare --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi
root=$1 port=$2 maildir=$3
work=$(mktemp -d)
cp /etc/passwd /etc/group /etc/shadow "$work/"
{
  echo 'opensmtpd:x:60001:60001::/var/lib/opensmtpd/empty:/usr/sbin/nologin'
  echo 'opensmtpq:x:60002:60002::/var/lib/opensmtpd/empty:/usr/sbin/nologin'
  echo "postbox:x:60003:60003::$maildir:/usr/sbin/nologin"
} >>"$work/passwd"
printf 'opensmtpd:x:60001:\nopensmtpq:x:60002:\npostbox:x:60003:\n' >>"$work/group"
printf 'opensmtpd:*:1::::::\nopensmtpq:*:1::::::\npostbox:*:1::::::\n' >>"$work/shadow"
cat >"$work/smtpd.conf" <<CONF
listen on 127.0.0.1 port $port hostname postbox.example
table anyone { "@" = postbox }
action "keep" maildir "$maildir" virtual <anyone>
match from any for any action "keep"
CONF
chown 60003:60003 "$maildir"
for file in passwd group shadow; do mount --bind "$work/$file" "/etc/$file"; done
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /var/spool
mount -t tmpfs tmpfs /run
mkdir -m 711 -p /var/lib/opensmtpd/empty /var/spool/smtpd
mount -t overlay overlay -o "lowerdir=$root/usr/libexec:/usr/libexec" /usr/libexec
mount -t overlay overlay -o "lowerdir=$root/usr/sbin:/usr/sbin" /usr/sbin
exec "$root/usr/sbin/smtpd" -d -f "$work/smtpd.conf"
