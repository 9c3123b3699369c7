#!/bin/bash
# One run over hosts that ssh reaches, one process on each, with all its GPUs:
#
#     launch/ssh.sh node1 node2 node3 -- --config=configs/duatm_market.py \
#         --config.data.root=/data/Market-1501-v15.09.15 --workdir=/shared/runs/duatm
#
# What follows -- goes to `jaxreid.main`. Every host has the repository at the same place, and
# --workdir on a disk that all share. The first host coordinates: the others have to reach it under
# the name given here. SIGINT and SIGTERM are passed on, the run saves its state, and the same
# command goes on from there. The exit code is that of the first host that failed.
#
# Settings: PORT of the coordinator (8476), PYTHON (python), FOLDER of the repository (this one).
set -u

hosts=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
    hosts+=("$1")
    shift
done
if [ ${#hosts[@]} -eq 0 ] || [ $# -lt 2 ]; then
    echo "launch/ssh.sh: expected HOST HOST ... -- flags of jaxreid.main" >&2
    exit 2
fi
shift

port=${PORT:-8476}
folder=${FOLDER:-$(cd "$(dirname "$0")/.." && pwd)}
coordinator=${hosts[0]#*@}:$port
count=${#hosts[@]}

# Where each process leaves its number, for the signals.
number_of() { echo "/tmp/jaxreid-$USER-$port-$1.pid"; }

clients=()
for i in "${!hosts[@]}"; do
    command=("${PYTHON:-python}" -m jaxreid.main "--distributed=$coordinator,$count,$i" "$@")
    quoted=$(printf '%q ' "${command[@]}")
    # Without the proxies of a login shell, which would stand between the hosts.
    ssh -o BatchMode=yes "${hosts[i]}" "cd $(printf '%q' "$folder") &&
        unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY &&
        echo \$\$ > $(number_of "$i") && exec $quoted" </dev/null &
    clients+=($!)
done

pass_on() {
    local i
    again=yes
    for i in "${!hosts[@]}"; do
        ssh -o BatchMode=yes "${hosts[i]}" "kill -TERM \$(cat $(number_of "$i"))" </dev/null &
    done
}
trap pass_on INT TERM

# The processes end each other when one fails, and so all of these come back.
code=0
for i in "${!clients[@]}"; do
    while # A signal ends the wait, but not the process.
        again=
        wait "${clients[i]}"
        one=$?
        [ -n "$again" ]
    do :; done
    if [ "$one" -ne 0 ]; then
        echo "launch/ssh.sh: ${hosts[i]} ended with code $one" >&2
        [ "$code" -ne 0 ] || code=$one
    fi
done
exit "$code"
