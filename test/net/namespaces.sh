#!/bin/bash
# namespaces.sh PROGRAM - ranks in network namespaces of their own, joined by a bridge: numbers, a shaped link, a killed rank, a cut cable, and who goes on then.
# Ends with 77 (skipped) and the reason where namespaces cannot be made. Needs root and iproute2.
set -u
program=$1
prefix=sq$$
count=4
folder=$(mktemp -d)

skip() { echo "skipped: $*"; clean; exit 77; }
fail() { echo "FAILED: $*"; tail -n 5 "$folder"/*.log; clean; exit 1; }
clean() {
  trap - EXIT
  pkill -KILL -P $$ 2>/dev/null
  for i in $(seq 0 $((count - 1))); do ip netns del "$prefix-$i" 2>/dev/null; done
  ip link del "$prefix-br" 2>/dev/null
  rm -rf "$folder"
}
trap clean EXIT

ucx=$("$program" look) || skip "no UCX: $ucx"
[ "$(id -u)" = 0 ] || skip "not root"
command -v ip >/dev/null && command -v tc >/dev/null || skip "iproute2 is not installed"
ip netns add "$prefix-0" 2>/dev/null || skip "the kernel makes no network namespaces here"
ip netns del "$prefix-0"
ip link add "$prefix-br" type bridge 2>/dev/null || skip "the kernel has no bridge"
ip link set "$prefix-br" up
for i in $(seq 0 $((count - 1))); do
  ip netns add "$prefix-$i" || skip "no namespace $i"
  ip link add "$prefix-v$i" type veth peer name eth0 netns "$prefix-$i" || skip "the kernel has no veth"
  ip link set "$prefix-v$i" master "$prefix-br" up
  ip -n "$prefix-$i" link set lo up
  ip -n "$prefix-$i" addr add "10.97.0.$((i + 1))/24" dev eth0
  ip -n "$prefix-$i" link set eth0 up
done

# start WHAT RANKS: rank i in namespace i, its output in $folder/i.log, its process in pids[i]
declare -a pids
port=$((20000 + $$ % 20000))
start() {
  port=$((port + 1))
  pids=()
  for i in $(seq 0 $(($2 - 1))); do
    RANK=$i WORLD_SIZE=$2 LOCAL_RANK=0 MASTER_ADDR=10.97.0.1 MASTER_PORT=$port UCX_TLS=tcp,self UCX_NET_DEVICES=eth0 OMP_NUM_THREADS=1 \
      ip netns exec "$prefix-$i" timeout 120 "$program" "$1" >"$folder/$i.log" 2>&1 &
    pids[i]=$!
  done
}
finish() { for i in "${!pids[@]}"; do wait "${pids[i]}" || fail "$1: rank $i ended with $?"; done; }
# until PATTERN RANK...: the ranks have said it
until_said() {
  local pattern=$1 i
  shift
  for _ in $(seq 600); do
    local missing=0
    for i in "$@"; do grep -q "$pattern" "$folder/$i.log" || missing=1; done
    [ $missing = 0 ] && return
    sleep 0.05
  done
  fail "ranks $* have not said '$pattern'"
}

for ranks in 2 3 4; do
  start check "$ranks"
  finish "check with $ranks ranks"
  [ "$(grep -c 'over ucx: equal' "$folder/0.log")" = 1 ] || fail "not over ucx"
  cat "$folder"/0.log
done

start rate 2
finish "rate"
echo "unshaped: $(cat "$folder/0.log")"
for i in 0 1; do ip netns exec "$prefix-$i" tc qdisc add dev eth0 root tbf rate 1gbit burst 512kb latency 5ms || skip "the kernel shapes no links"; done
start rate 2
finish "rate on a shaped link"
reached=$(awk '{print $2 / 125}' "$folder/0.log")
echo "1 Gbit/s: $(cat "$folder/0.log"), $reached of the link"
awk "BEGIN {exit !($reached > 0.5 && $reached < 1.1)}" || fail "the link was not shaped, or not used"
for i in 0 1; do ip netns exec "$prefix-$i" tc qdisc del dev eth0 root; done

start wait 4
until_said waits 0 1 2 3
begin=$(date +%s%N)
pkill -KILL -P "$(pgrep -P "${pids[2]}" timeout || echo "${pids[2]}")" 2>/dev/null || pkill -KILL -P "${pids[2]}"
until_said 'rank [013]: dead 2:' 0 1 3
echo "killed: named by all others after $((($(date +%s%N) - begin) / 1000000)) ms"
pids[2]=$$ && unset 'pids[2]'
finish "after a death"

start wait 4
until_said waits 0 1 2 3
begin=$(date +%s%N)
ip link set "$prefix-v1" down
until_said 'rank [023]: \(stalled\|dead\) 1:' 0 2 3
echo "cut off: named by all others after $((($(date +%s%N) - begin) / 1000000)) ms"
wait "${pids[@]}"
ip link set "$prefix-v1" up

# Whoever is left goes on, with a group's numbers; whoever is cut off may live, and must not go on alone.
start shrink 4
until_said waits 0 1 2 3
pkill -KILL -P "$(pgrep -P "${pids[0]}" timeout || echo "${pids[0]}")" 2>/dev/null || pkill -KILL -P "${pids[0]}"
until_said 'rank [123] goes on with 1,2,3$' 1 2 3
unset 'pids[0]'
finish "shrunk after a death"
for i in 1 2 3; do grep -q 'of 3 over ucx: equal' "$folder/$i.log" || fail "rank $i has other numbers"; done
echo "killed: the others go on"

start shrink 4
until_said waits 0 1 2 3
ip link set "$prefix-v1" down
finish "shrunk after a cut"
for i in 0 2 3; do
  grep -q "rank $i goes on with 0,2,3\$" "$folder/$i.log" || fail "rank $i does not go on"
  grep -q 'of 3 over ucx: equal' "$folder/$i.log" || fail "rank $i has other numbers"
done
grep -q 'rank 1 stays behind: stalled' "$folder/1.log" || fail "rank 1 goes on alone"
echo "cut off: the others go on, and it does not"
echo "passed"
