# Answers questions about job folders, for as long as a connection lives: one process, no start for each question.
#   sh -c "$(cat serve.sh)" dj ROOT DD
# DD is 1 where dd can count bytes. One line in, one line out; after a `look` with a size, that many bytes of the log.
#   look ID OFFSET LIMIT -> started alive size <exit> | <dropped>      (started, alive: 0 or 1)
#   end ID SIGNAL        -> told | later | gone     (a job that has not begun never will)
#   boot ID              -> same | other | young | none     (whether its supervisor belongs to an earlier boot of the host)
#   pid ID PID           -> noted         (which process of the host a container's supervisor is)
#   image ID             -> the image of its container, or an empty line
#   remove ID            -> removed | left
#   forget ID            -> forgotten     (the watcher stops to look at it; what is alive of a job without an ending is killed)
cd "$1/jobs" || exit 70
umask 077
boot=-
read -r boot </proc/sys/kernel/random/boot_id
alive() { # ID: whether the very process that its pid file names still runs
    pid=
    read -r pid start then <"$1/pid" || return 1
    [ "$then" = "$boot" ] || return 1
    read -r line <"/proc/$pid/stat" || return 1
    line=${line##*) }
    set -- $line
    # Fields 3, 4, … of proc(5): the start time is the 22nd of the file.
    [ "${20}" = "$start" ] && [ "$1" != Z ]
} 2>/dev/null
first() { # FILE: its first line
    line=
    read -r line <"$1"
} 2>/dev/null
while read -r verb id one two; do
    case $verb in
    look)
        started=0 live=0 size=0 ending= dropped=
        if [ -e "$id/started" ]; then
            started=1
            # In this order: a supervisor seen dead before `exit` was looked for has written it already, or never will.
            alive "$id" && live=1
            [ -f "$id/exit" ] && first "$id/exit" && ending=$line
            [ -n "$ending" ] && [ -f "$id/dropped" ] && first "$id/dropped" && dropped=$line
            if [ -f "$id/log" ] && [ ! -L "$id/log" ]; then
                size=$(($(wc -c <"$id/log") - one))
                [ "$size" -lt 0 ] && size=0
                [ "$size" -gt "$two" ] && size=$two
            fi
        fi
        echo "$started $live $size $ending | $dropped"
        [ "$size" -eq 0 ] && continue
        if [ "$2" = 1 ]; then
            dd bs=256k iflag=skip_bytes,count_bytes,fullblock skip="$one" count="$size" <"$id/log" 2>/dev/null
        else
            tail -c "+$((one + 1))" "$id/log" | head -c "$size"
        fi
        ;;
    end)
        # Who makes `started` first has won: the supervisor, or this.
        if mkdir -p "$id" && mkdir "$id/started" 2>/dev/null; then
            case $one in TERM) echo '143 stopped' ;; *) echo '137 aborted' ;; esac >"$id/exit"
            echo told
        elif [ -e "$id/exit" ]; then
            echo gone
        elif alive "$id"; then
            kill -s "$one" "$pid" 2>/dev/null && echo told || echo later
        elif [ -e "$id/pid" ]; then
            echo gone
        else
            echo later
        fi
        ;;
    boot)
        if read -r pid start then <"$id/pid"; then
            [ "$then" = "$boot" ] && echo same || echo other
        elif [ -n "$(find "$id/started" -maxdepth 0 -mmin -1)" ]; then
            echo young
        else
            echo none
        fi 2>/dev/null
        ;;
    pid)
        if read -r line <"/proc/$one/stat"; then
            line=${line##*) }
            set -- "$1" "$2" $line
            # Fields 3, 4, … of proc(5) stand from the third place on: the start time is the 22nd of the file.
            echo "$one ${22} $boot" >"$id/.pid" && mv -f "$id/.pid" "$id/pid"
        fi 2>/dev/null
        echo noted
        ;;
    image)
        line=
        [ -f "$id/image" ] && first "$id/image"
        echo "$line"
        ;;
    remove)
        # `image` goes after what only a container of that image may delete.
        rm -rf "./$id/work" 2>/dev/null && rm -rf "./$id" "../live/$id" 2>/dev/null
        [ -e "$id" ] && echo left || echo removed
        ;;
    forget)
        rm -f "../live/$id"
        # Its folder was removed, or its supervisor killed: what it left carries its name.
        [ -e "$id/exit" ] || for each in $(grep -l "DSTACK_JUPYTER_ATTEMPT=$id" /proc/[0-9]*/environ); do
            each=${each#/proc/}
            kill -s KILL "${each%/environ}"
        done 2>/dev/null
        echo forgotten
        ;;
    *) echo "what is $verb" ;;
    esac
done
