# The machine's own guard: powers it off when nobody needs it any more. POSIX sh and coreutils; a systemd timer runs it each minute.
#   sh guard.sh
# KEPT (on disk) holds
#   limits   "<silence> <age>" in seconds, 0: no such limit. The engine may put another file in its place.
#   alive    touched by the engine over SSH: a word from it. Only that it changed counts, not what its clock says.
#   age      seconds that this machine has run, over all boots
#   why      written before the end: what ended the machine
# SEEN (in memory, new with each boot) holds
#   counts   "<silent> <age> <uptime> <alive>" of the last look
#   until    the age that it may reach all the same, in a boot after one that a guard ended: somebody wants to read what is on it
# Time is counted by the machine's uptime: a clock that jumps, as clocks do at first boot, ends no machine.
set -u
umask 022
KEPT=${DJ_KEPT:-/var/lib/dstack-jupyter/guard} SEEN=${DJ_SEEN:-/run/dstack-jupyter/guard}
AGAIN=1800 # seconds that one has which a guard ended and somebody started again
PROC=${DJ_PROC:-/proc} HOMES=${DJ_HOMES:-/root /home/*} END=${DJ_END:-power_off}

power_off() {
    sync
    systemctl poweroff || poweroff || poweroff -f
}

number() { # text, what it is if it is no number
    case $1 in '' | *[!0-9]*) echo "$2" ;; *) echo "$1" ;; esac
}

# Whether a job of ours is under way: started, not ended, and its supervisor lives, or began since this boot.
unfinished() {
    read -r boot <"$PROC/sys/kernel/random/boot_id" || boot=-
    for home in $HOMES; do
        for job in "$home"/.dstack_jupyter/jobs/*; do
            [ -d "$job/started" ] && [ ! -e "$job/exit" ] || continue
            if read -r pid start its_boot <"$job/pid"; then
                [ "$its_boot" = "$boot" ] || continue
                read -r line <"$PROC/$pid/stat" || continue
                line=${line##*) }
                set -- $line
                [ "${20}" = "$start" ] && return 0
            elif [ "$job/started" -nt "$SEEN" ] || [ ! -d "$SEEN" ]; then
                # In a container whose number nobody has noted yet. (The folder is as old as the boot's first look.)
                return 0
            fi
        done
    done 2>/dev/null
    return 1
}

end() {
    echo "$1" >"$KEPT/why"
    echo "dstack_jupyter: this machine powers off: $1"
    $END
    exit 0
}

read -r silence limit <"$KEPT/limits" || exit 0
silence=$(number "$silence" 0) limit=$(number "$limit" 0)
read -r uptime _ <"$PROC/uptime"
uptime=$(number "${uptime%%.*}" 0)
word=$(stat -c %z "$KEPT/alive" 2>/dev/null || echo never)

busy=
unfinished && busy=1
if ! read -r silent age last before 2>/dev/null <"$SEEN/counts"; then
    # The first look of a boot begins the count: in a container the uptime is its host's.
    mkdir -p "$SEEN"
    silent=0 last=$uptime before=$word
    read -r age 2>/dev/null <"$KEPT/age" || age=0
    [ -e "$KEPT/why" ] && echo $(($(number "$age" 0) + AGAIN)) >"$SEEN/until"
fi
silent=$(number "$silent" 0) age=$(number "$age" 0) last=$(number "$last" 0)
[ "$uptime" -ge "$last" ] || last=$uptime
passed=$((uptime - last))
age=$((age + passed))
if [ -n "$busy" ] || [ "$word" != "$before" ]; then silent=0; else silent=$((silent + passed)); fi

# Writing in place keeps the folder's own time.
echo "$silent $age $uptime $word" >"$SEEN/counts"
echo "$age" >"$KEPT/age.new" && mv "$KEPT/age.new" "$KEPT/age"

read -r until 2>/dev/null <"$SEEN/until" || until=0
until=$(number "$until" 0)
[ "$limit" -gt 0 ] && [ "$until" -gt "$limit" ] && limit=$until
[ "$limit" -gt 0 ] && [ "$age" -ge "$limit" ] && end "it has run for $age s, its limit is $limit s"
[ "$silence" -gt 0 ] && [ "$silent" -ge "$silence" ] && end "no word for $silent s, and no job under way"
exit 0
