# Job supervisor, protocol 1. POSIX sh with coreutils or busybox, nothing else.
#   sh -c "$(cat job.sh)" dj FOLDER LOG_LIMIT MAX_DURATION STOP_DURATION
# FOLDER holds env.sh (exports), commands (sets the words of what to run) and work/ (where it runs, see DSTACK_WORKING_DIR).
# It gets, in this order:
#   started/   made first and atomically: a second supervisor of the same attempt ends here
#   pid        "<pid> <start time> <boot id>" of this supervisor
#   log        output and errors merged, appended only
#   dropped    bytes discarded after LOG_LIMIT, or because the disk was full, then why; made full size at the start
#   exit       last: "<exit code> <why it was ended: - stopped aborted max_duration>"; when it is there, the log is complete
#   rc         what an interactive shell said before it came to the job
#   stopping   made when the job is asked to stop: a shell that is still at its start files hears no signal
# TERM asks the job to stop: all its processes have STOP_DURATION seconds to end, whatever its shell does (0: for ever). Then, and
# with USR1 at once, they are killed.
#   inner      in a container (DJ_INSIDE is set) instead of pid: what the numbers mean outside, only the host knows
set -u
umask 077
pidfile=pid inside=${DJ_INSIDE:-}
if [ -n "${DJ_INSIDE:-}" ]; then
    # The folders around this one are the host user's alone; who reads the log there is not who writes it here.
    umask 022
    pidfile=inner
    unset DJ_INSIDE
fi
folder=$1 log_limit=$2 max_duration=$3 stop_duration=$4
cd "$folder" || exit 70
mkdir started 2>/dev/null || exit 0

# What must be written at the end gets its block now: a full disk may lose output, but never how a job ended.
printf '%1024s\n' '' >exit.new || exit 73
printf '%1024s\n' '' >dropped.new || exit 73

child= signalled= early= asked= killed= reason=-
job_processes() { # whole | "": `alive` if its session has any; `others` are those in groups of their own (whole: and all below)
    alive= others= known=" $child " table=
    for each in /proc/[0-9]*/stat; do
        read -r line <"$each" || continue
        pid=${each#/proc/}
        # Fields 3, 4, … of proc(5): state, parent, group, session.
        set -- "$1" ${line##*) }
        [ "$2" = Z ] || table="$table ${pid%/stat}:$3:$4:$5"
    done 2>/dev/null
    grown=1
    while [ -n "$grown" ]; do
        grown=
        for each in $table; do
            pid=${each%%:*} rest=${each#*:}
            case $known in *" $pid "*) continue ;; esac
            case $rest in
            *":$child:$child") alive=1 ;;
            *":$child") alive=1 others="$others $pid" ;;
            *)
                [ -n "$1" ] || continue
                case $known in *" ${rest%%:*} "*) others="$others $pid" ;; *) continue ;; esac
                ;;
            esac
            known="$known$pid " grown=1
        done
    done
}
end_job() { # why, signal
    signalled=1
    [ "$reason" = - ] && reason=$1
    [ -n "$child" ] || {
        early=1
        return
    }
    # Who is asked passes it on to its own sessions (torchrun, MPI); who is killed cannot.
    if [ "$2" = KILL ]; then job_processes whole; else job_processes ''; fi
    # No group of that number: the job has not got its own session yet, and never will.
    # (busybox knows no `--` here: it would answer that it failed.)
    kill "-$2" "-$child" 2>/dev/null || [ -n "$asked" ] || kill -s KILL "$child" 2>/dev/null
    for each in $others; do kill -s "$2" "$each" 2>/dev/null; done
    asked=1
    [ "$2" = KILL ] && killed=1
}
supervisor=$$
later() { # seconds, signal, process: sends it, unless the job has ended by then
    (
        cd / && nap=
        trap '[ -n "$nap" ] && kill "$nap" 2>/dev/null; exit' TERM
        sleep "$1" &
        nap=$!
        wait "$nap"
        [ -e "$folder/started" ] && [ ! -e "$folder/exit" ] && kill -s "$2" "$3"
    ) >/dev/null 2>&1 </dev/null &
}
killer=
ask_to_stop() {
    : >stopping
    end_job stopped TERM
    if [ -z "$killer" ] && [ "$stop_duration" -gt 0 ]; then
        later "$stop_duration" USR1 "$supervisor"
        killer=$!
    fi
}
overdue() {
    [ "$reason" = - ] && reason=max_duration
    ask_to_stop
}
trap ask_to_stop TERM
trap 'end_job aborted KILL' USR1
trap overdue USR2
trap '' HUP INT

start=- boot=-
if read -r line <"/proc/$$/stat"; then
    line=${line##*) }
    # Fields 3, 4, … of proc(5): the start time is the 22nd of the file.
    set -- $line
    start=${20}
    read -r boot </proc/sys/kernel/random/boot_id
fi 2>/dev/null
: >>log

mkfifo pipe
(
    trap '' TERM USR1 USR2 HUP INT
    # ulimit counts blocks of 512 bytes; past it a write fails instead of killing, and the rest is counted, not kept.
    (
        trap '' XFSZ
        ulimit -f $(((log_limit + 511) / 512))
        exec cat >>log 2>collector
    ) || {
        read -r why <collector || why='no space left for the log'
        dropped=$(wc -c)
        echo "$dropped $why" 1<>dropped.new && mv dropped.new dropped
    }
) <pipe &
collector=$!

(
    trap - TERM USR1 USR2 HUP INT
    interactive=
    . ./commands
    if [ -n "$interactive" ]; then
        set -- "$@" "$folder/rc" "$1"
        exec 2>rc
    fi
    set -- "$inside" "$@"
    . ./env.sh
    inside=$1
    shift
    if [ -n "$inside" ]; then
        sh ./unpack.sh || exit 75
        # As Docker does with a working folder that the image lacks.
        mkdir -p "$DSTACK_WORKING_DIR" 2>/dev/null
    fi
    cd "$DSTACK_WORKING_DIR" || exit 71
    exec setsid "$@"
) >pipe 2>&1 </dev/null &
child=$!
echo "$supervisor $start $boot" >pid.new && mv pid.new "$pidfile"
# A signal that came before there was a child. (One that comes now has reached it: it is asked, not killed.)
[ -n "$early" ] && kill -KILL "-$child" "$child" 2>/dev/null

timer=
if [ "$max_duration" -gt 0 ]; then
    later "$max_duration" USR2 "$supervisor"
    timer=$!
fi

code=127
while :; do
    signalled=
    wait "$child"
    now=$?
    # 127 after a signal: the child was collected by the wait before.
    [ "$now" -eq 127 ] && [ "$code" -ne 127 ] || code=$now
    [ -n "$signalled" ] || break
done
# Asked to stop: what its shell left behind has its time, too.
while [ -n "$asked" ] && [ -z "$killed" ]; do
    job_processes ''
    [ -n "$table" ] || ! kill -0 "-$child" 2>/dev/null || alive=1
    [ -n "$alive" ] || break
    sleep 0.1 2>/dev/null || sleep 1 &
    wait $!
done
# The job is its shell: what that left behind in its session ends with it.
kill -KILL "-$child" 2>/dev/null
# Both ends were opened long ago; while this runs, most collectors end.
rm -f pipe
state=-
if read -r line <"/proc/$collector/stat"; then
    state=${line##*) }
fi 2>/dev/null
patience=
if [ "${state%% *}" != Z ]; then
    # Who left the session on purpose may hold the pipe for ever: five seconds to finish a last line.
    later 5 KILL "$collector"
    patience=$!
fi
while :; do
    signalled=
    wait "$collector"
    [ -n "$signalled" ] || break
done
for helper in $patience $timer $killer; do kill -s TERM "$helper" 2>/dev/null; done
# The job never came to its first line: what its shell said is all that there is.
number=0
[ -s rc ] && while IFS= read -r line; do
    number=$((number + 1))
    case $number$line in [12]"bash: "* | [12]"zsh: "*) ;; *) printf '%s\n' "$line" ;; esac
done <rc >>log
# What was dropped has its name already; else nothing was.
rm -f collector dropped.new
echo "$code $reason" 1<>exit.new && mv exit.new exit
