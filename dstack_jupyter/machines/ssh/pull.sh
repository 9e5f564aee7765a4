# A tar stream of PATH in a job's working folder.   sh -c "$(cat pull.sh)" dj ROOT ID PATH
work=$1/jobs/$2/work
cd "$work" 2>/dev/null || { echo "the files of this run are gone" >&2; exit 77; }
root=$(pwd -P)
case $3 in
/*) echo "'$3' is outside the job's working folder" >&2; exit 78 ;;
esac
if [ -d "$3" ]; then
    cd "$3" || exit 77
    inner=$(pwd -P) name=.
elif [ -e "$3" ]; then
    cd "$(dirname "$3")" || exit 77
    inner=$(pwd -P) name=$(basename "$3")
else
    cd "$(dirname "$3")" 2>/dev/null && there=$(ls | head -n 12 | tr '\n' ' ')
    echo "the run left no '$3'; there is: ${there:-nothing}" >&2
    exit 77
fi
case $inner/ in
"$root"/*) ;;
*) echo "'$3' is outside the job's working folder" >&2; exit 78 ;;
esac
tar -cf - -- "$name"
