#!/bin/bash
# A real SLURM cluster of one node, this machine, to try sweeps on: scripts/slurm_here.sh start|stop FOLDER
# Debian and Ubuntu: apt-get install -y --no-install-recommends slurm-wlm munge; run as root. Then
# export SLURM_CONF=FOLDER/slurm.conf, and sbatch, squeue and train.py -m launcher=slurm work as on a cluster.
# CPUS (8) is how many CPUs the node says it has: more than there are lets several jobs share a small machine.
set -euo pipefail
what=${1:?start or stop} folder=$(realpath -m "${2:?a folder of its own}") host=$(hostname -s)

start() {
    mkdir -p "$folder"/{state,spool} /run/munge
    [ -s /etc/munge/munge.key ] || mungekey --create
    chown -R munge: /etc/munge /run/munge /var/log/munge /var/lib/munge
    munge -n >/dev/null 2>&1 || setpriv --reuid munge --regid munge --clear-groups munged
    cat >"$folder/slurm.conf" <<CONF
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
# A requeued job may start again once its old credential has expired, which else takes two minutes.
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
ReturnToService=2
KillWait=10
MinJobAge=300
SlurmctldPort=7817
SlurmdPort=7818
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=${CPUS:-8} RealMemory=${MEMORY_MB:-16000}
PartitionName=cpu Nodes=$host Default=YES MaxTime=INFINITE
CONF
    slurmctld -f "$folder/slurm.conf"
    slurmd -f "$folder/slurm.conf"
    export SLURM_CONF="$folder/slurm.conf"
    for _ in $(seq 60); do
        sinfo -h -o %T 2>/dev/null | grep -qx idle && return
        sleep 0.5
    done
    tail -n 5 "$folder"/*.log >&2
    exit 1
}

stop() {
    export SLURM_CONF="$folder/slurm.conf"
    scancel --full --user="$(id -un)" 2>/dev/null || true
    for daemon in slurmd slurmctld; do
        [ ! -s "$folder/$daemon.pid" ] || kill "$(cat "$folder/$daemon.pid")" || true
    done
}

"$what"
