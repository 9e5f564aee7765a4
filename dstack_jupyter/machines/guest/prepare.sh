# Brings what the image lacks: Docker, and for NVIDIA GPUs the container toolkit. Last of the first boot; tells how it went in
# STATE/prepared: "ok", or "failed" and what to do. Packages are the distribution's own; NVIDIA's come with its key, which is
# known by its fingerprint.
set -u
PATH=$PATH:/usr/sbin:/sbin
STATE=${DJ_STATE:-/var/lib/dstack-jupyter} SYSTEM=${DJ_SYSTEM:-}
NVIDIA_KEY=C95B321B61E88C1809C4F759DDCAE044F796ECB0
NVIDIA=https://nvidia.github.io/libnvidia-container
export DEBIAN_FRONTEND=noninteractive

told() { # text
    echo "$1" >"$STATE/prepared.new" && mv "$STATE/prepared.new" "$STATE/prepared"
}
failed() { # what
    told "failed: $1"
    exit 1
}
install() { # packages; waits for whoever holds the packages, tries three times
    tries=0
    while :; do
        if command -v apt-get >/dev/null; then
            apt-get -o DPkg::Lock::Timeout=300 update -q && apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "$@"
        elif command -v dnf >/dev/null; then
            dnf install -y -q "$@"
        else
            return 1
        fi && return 0
        tries=$((tries + 1))
        [ "$tries" -lt 3 ] || return 1
        sleep "${DJ_NAP:-10}"
    done
}
nvidia_packages() {
    command -v gpg >/dev/null || install gnupg || return 1
    ring=$SYSTEM/etc/apt/keyrings/dstack-jupyter-nvidia.asc
    mkdir -p "$SYSTEM/etc/apt/keyrings" "$SYSTEM/etc/apt/sources.list.d"
    curl -fsS --max-time 60 --retry 3 "$NVIDIA/gpgkey" -o "$ring.new" || return 1
    found=$(gpg --batch --show-keys --with-colons "$ring.new" | awk -F: '$1 == "fpr" { print $10 }')
    [ "$found" = "$NVIDIA_KEY" ] || {
        rm -f "$ring.new"
        failed "the key of NVIDIA's packages is not the one that we know ($found)"
    }
    mv "$ring.new" "$ring"
    arch=$(dpkg --print-architecture)
    echo "deb [signed-by=$ring] $NVIDIA/stable/deb/$arch /" >"$SYSTEM/etc/apt/sources.list.d/dstack-jupyter-nvidia.list"
    install nvidia-container-toolkit
}

mkdir -p "$STATE"
command -v dockerd >/dev/null || install docker.io || install docker || failed "Docker could not be installed; use an image that has it"
systemctl enable --now docker.socket docker.service >/dev/null 2>&1 || systemctl start docker || failed "Docker does not start"
if [ -e "$SYSTEM/dev/nvidiactl" ]; then
    command -v nvidia-ctk >/dev/null || nvidia_packages || failed "the NVIDIA container toolkit could not be installed"
    nvidia-ctk runtime configure --runtime=docker >/dev/null 2>&1 || failed "Docker could not be told of the NVIDIA runtime"
    # With systemd's cgroups a reload of systemd takes the GPUs from running containers (NVIDIA's own note on it).
    python3 - "$SYSTEM/etc/docker/daemon.json" <<'PYTHON' || failed "Docker's settings could not be written"
import json, sys
with open(sys.argv[1]) as file:
    settings = json.load(file)
options = [each for each in settings.get("exec-opts", []) if not each.startswith("native.cgroupdriver=")]
settings["exec-opts"] = [*options, "native.cgroupdriver=cgroupfs"]
with open(sys.argv[1], "w") as file:
    json.dump(settings, file, indent=2)
PYTHON
    systemctl restart docker || failed "Docker does not start with the NVIDIA runtime"
fi
told ok
