# What a host is, asked once a connection. POSIX sh with coreutils or busybox.
#   sh -c "$(cat hello.sh)" dj
# Prints KEY=VALUE lines, then the output of each GPU tool that is there between "-- TOOL CODE" lines.
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
root=$HOME/.dstack_jupyter
umask 077
mkdir -p "$root/jobs" "$root/live" || exit 70
chmod 700 "$root"
say() { printf '%s=%s\n' "$1" "$2"; }
say root "$root"
say home "$HOME"
say user "$(id -un)"
say uid "$(id -u)"
say path "$PATH"
say shell "${SHELL:-/bin/sh}"
say hostname "$(hostname 2>/dev/null || uname -n)"
say arch "$(uname -m)"
say system "$(uname -s)"
read -r boot </proc/sys/kernel/random/boot_id && say boot "$boot"
say cpus "$(nproc 2>/dev/null || grep -c '^processor' /proc/cpuinfo)"
while read -r key value unit; do [ "$key" = MemTotal: ] && say memory_kib "$value"; done </proc/meminfo
say disk_kib "$(df -Pk "$root" 2>/dev/null | { read -r _; read -r _ size _ free _; echo "$size $free"; })"
sleep 0.01 2>/dev/null && say naps 1
printf 'abc' | dd bs=64k iflag=skip_bytes,count_bytes skip=1 count=1 2>/dev/null | grep -q b && say dd 1
command -v setsid >/dev/null && say setsid 1
command -v tar >/dev/null && say tar 1
command -v sshd >/dev/null && say sshd "$(command -v sshd)"
sudo -n true 2>/dev/null && say sudo 1
for socket in /var/run/docker.sock "${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/docker.sock"; do
    if [ -S "$socket" ]; then
        say docker_socket "$socket"
        [ -w "$socket" ] && say docker_allowed 1
        break
    fi
done
command -v dockerd >/dev/null && say docker_installed 1
command -v nvidia-ctk >/dev/null && say nvidia_toolkit 1
addresses=$(ip -o -4 addr show scope global 2>/dev/null | while read -r _ _ _ address _; do printf '%s ' "$address"; done)
say addresses "$addresses"
tool() {
    command -v "$1" >/dev/null || return 0
    echo "-- $1"
    if command -v timeout >/dev/null; then timeout 10 "$@" 2>&1; else "$@" 2>&1; fi
    printf '\n-- end %s\n' "$?"
}
tool nvidia-smi --query-gpu=index,name,memory.total --format=csv,noheader,nounits
tool amd-smi static --asic --vram --json
tool rocm-smi --showproductname --showmeminfo vram --json
tool hl-smi -Q index,name,memory.total -f csv,noheader
tool tt-smi -s
say time "$(date +%s)"
