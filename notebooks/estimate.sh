# One node's share of a Monte Carlo estimate of pi; the master gathers all shares over SSH. Needs only sh, awk and ssh.
set -eu
points=${1:-400000}
share=/tmp/$DSTACK_RUN_NAME-share.csv
echo "node $DSTACK_NODE_RANK of $DSTACK_NODES_NUM on $(hostname): $points points"
awk -v n="$points" -v rank="$DSTACK_NODE_RANK" 'BEGIN {
    srand(rank + 1)
    for (i = 1; i <= n; i++) {
        x = rand(); y = rand()
        inside += (x * x + y * y <= 1)
        if (i % (n / 40) == 0) printf "%d,%d,%d\n", rank, i, inside
    }
}' >"$share"

if [ "$DSTACK_NODE_RANK" != 0 ]; then
    until [ -e "$share.taken" ]; do sleep 0.1; done
    rm -f "$share" "$share.taken"
    exit 0
fi
echo "node,points,inside" >pi.csv
cat "$share" >>pi.csv
rank=1
while [ "$rank" -lt "$DSTACK_NODES_NUM" ]; do
    until ssh "node-$rank" test -s "$share" 2>/dev/null && [ "$(ssh "node-$rank" "wc -l <$share")" -eq 40 ]; do sleep 0.1; done
    ssh "node-$rank" "cat $share && touch $share.taken" >>pi.csv
    echo "gathered the share of node $rank"
    rank=$((rank + 1))
done
rm -f "$share"
awk -F, 'NR > 1 { if ($2 > most[$1]) { most[$1] = $2; in_[$1] = $3 } }
    END { for (k in most) { n += most[k]; i += in_[k] } printf "pi is about %.4f (%d points)\n", 4 * i / n, n }' pi.csv
