# Claims a host for one installation: an exclusive file that says whose it is.
#   sh -c "$(cat claim.sh)" dj claim|release INSTALLATION FLEET
# Prints "ours", "released", or "theirs <installation> <fleet> <user@host of the claim>".
file=/var/tmp/dstack_jupyter.claim
umask 022
held() { read -r owner fleet who <"$file"; } 2>/dev/null
if [ "$1" = release ]; then
    held && [ "$owner" = "$2" ] && [ "$fleet" = "$3" ] && rm -f "$file"
    echo released
    exit 0
fi
if (set -C && echo "$2 $3 $(id -un)" >"$file") 2>/dev/null; then
    echo ours
elif held && [ "$owner" = "$2" ] && [ "$fleet" = "$3" ]; then
    echo ours
elif [ -e "$file" ]; then
    echo "theirs ${owner:-?} ${fleet:-?} ${who:-?}"
else
    echo "/var/tmp cannot be written" >&2
    exit 1
fi
