# Receives a job folder as a tar stream and, with a job.sh in it, starts its supervisor, detached from the connection.
#   sh -c "$(cat launch.sh)" dj ROOT ID MODE LOG_LIMIT MAX_DURATION STOP_DURATION SHELL
# MODE is process (start it) or folder (only make the folder: a container follows). Prints "ready" or "again".
umask 077
root=$1 id=$2 mode=$3
mkdir -p "$root/jobs/$id/work" "$root/live" && cd "$root/jobs/$id" || exit 70
if [ -e started ]; then
    cat >/dev/null
    : >"$root/live/$id"
    echo again
    exit 0
fi
tar -xf - || exit 74
[ "$mode" = folder ] || sh ./unpack.sh || exit 75
echo >"$root/live/$id"
if [ "$mode" = folder ]; then
    # A container's user is anybody; nobody else gets through the folders above, which are 0700.
    chmod 777 . work
    for file in ./*; do [ -f "$file" ] && chmod 644 "$file"; done
    echo ready
    exit 0
fi
command -v "$7" >/dev/null || { echo "there is no shell $7 on this host" >&2; exit 76; }
# What the job starts carries this name: it can be found without its folder.
export DSTACK_JUPYTER_ATTEMPT="$id"
setsid sh ./job.sh "$PWD" "$4" "$5" "$6" </dev/null >/dev/null 2>&1 &
tries=0
until [ -e pid ] || [ -e exit ] || [ "$tries" -ge 100 ]; do
    tries=$((tries + 1))
    sleep 0.02 2>/dev/null || sleep 1
done
echo ready
