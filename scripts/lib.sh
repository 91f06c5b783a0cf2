# Shared by the scripts: where caches live and how to speak. Sourced, never run.

keytrail_cache="${KEYTRAIL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/keytrail}"

cargo_deny_version=0.20.2
cargo_deny="$keytrail_cache/cargo-deny-$cargo_deny_version/bin/cargo-deny"

cargo_fuzz_version=0.13.2
cargo_fuzz_folder="$keytrail_cache/cargo-fuzz-$cargo_fuzz_version"

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
  say "$*"
  exit 1
}

# True while something listens on 127.0.0.1:$1.
port_busy() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port nobody listens on right now, below the range that the kernel hands out by itself.
free_port() {
  local port tries
  for tries in {1..200}; do
    port=$((10000 + RANDOM % 20000))
    port_busy "$port" || { echo "$port" && return; }
  done
  die "found no free port in $tries tries"
}

# Whole minutes since $1 (a value of $SECONDS), with one decimal.
minutes_since() { awk -v s="$((SECONDS - $1))" 'BEGIN { printf "%.1f", s / 60 }'; }
