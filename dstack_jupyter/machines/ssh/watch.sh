# Tells when a job folder has news, for as long as a connection lives. One sleep a tick is all that it starts.
#   sh -c "$(cat watch.sh)" dj ROOT NAPS
# NAPS is 1 where sleep takes fractions. ROOT/live holds one empty file for each watched job: its time is that of the last look.
# Prints the job's id when its log grew, when it ended, when its supervisor died; "." now and then as a sign of life.
cd "$1/live" || exit 70
ended=' ' again=' ' quiet=0 beat=0
while :; do
    news=' '
    for id in *; do
        [ "$id" = '*' ] && continue
        job=../jobs/$id
        found=
        if [ "$job/log" -nt "$id" ]; then
            echo >"$id"
            found=1
            news="$news$id "
        else
            # A second look a tick later: a write in the same instant as the mark would never be newer than it.
            case $again in *" $id "*) found=1 ;; esac
        fi
        case $ended in
        *" $id "*) ;;
        *)
            if [ -e "$job/exit" ]; then
                ended="$ended$id "
                found=1
            elif read -r pid rest <"$job/pid" && [ ! -d "/proc/$pid" ]; then
                ended="$ended$id "
                found=1
            fi 2>/dev/null
            ;;
        esac
        if [ -n "$found" ]; then
            echo "$id" || exit 0
            quiet=0
        fi
    done
    again=$news
    quiet=$((quiet + 1)) beat=$((beat + 1))
    if [ "$2" != 1 ]; then
        nap=1
    elif [ "$quiet" -lt 40 ]; then
        nap=0.05
    elif [ "$quiet" -lt 200 ]; then
        nap=0.2
    else
        nap=0.5
    fi
    if [ "$beat" -ge 20 ]; then
        beat=0
        echo . || exit 0
        echo >../heartbeat
    fi
    sleep "$nap"
done
