# Claims a host for one instance row of one installation: an exclusive file that says whose it is.
#   sh -c "$(cat claim.sh)" dj claim|release FILE STONES INSTALLATION INSTANCE FLEET
# Prints "ours", "released", "late" (that instance was given back before), or whose it is:
# "theirs <installation> <fleet> <user of the claim> <instance>".
#
# A release leaves a stone for its instance, which never claims again. So a claim that arrives late, sent by an engine that died
# before another gave the host back, loses: it looks for the stone after it has made the file, a release puts the stone before it
# looks for the file, and whichever comes first, one of them takes the file away.
verb=$1 file=$2 stones=$3 installation=$4 instance=$5 fleet=$6
stone=$stones/$installation.$instance
umask 022
holder() { read -r owner their_fleet who holds <"$file"; } 2>/dev/null
mine() { holder && [ "$owner" = "$installation" ] && [ "$holds" = "$instance" ]; }
late() {
    [ -e "$stone" ] || return 1
    mine && rm -f "$file"
    echo late
}
if [ "$verb" = release ]; then
    { mkdir -p "$stones" && : >"$stone"; } 2>/dev/null # on a full disk the file still goes
    find "$stones" -type f -mtime +7 -exec rm -f {} + 2>/dev/null
    mine && rm -f "$file"
    echo released
elif late; then
    :
elif (set -C && echo "$installation $fleet $(id -un) $instance" >"$file") 2>/dev/null || mine; then
    late || echo ours
elif [ -e "$file" ]; then
    echo "theirs ${owner:-?} ${their_fleet:-?} ${who:-?} ${holds:-?}"
else
    echo "/var/tmp cannot be written" >&2
    exit 1
fi
