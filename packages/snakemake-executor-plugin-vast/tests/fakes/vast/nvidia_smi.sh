#!/bin/sh
# A fake nvidia-smi: `-L`, and `--query-gpu=FIELDS --format=csv[,noheader][,nounits]`.
gpus='@NUM_GPUS@' name='@GPU_NAME@' memory='@GPU_RAM@' driver='@DRIVER@' cuda='@CUDA@' capability='@COMPUTE_CAP@'
query= format=
for argument; do
    case "$argument" in
        -L | --list-gpus)
            i=0
            while [ $i -lt "$gpus" ]; do
                echo "GPU $i: NVIDIA $name (UUID: GPU-00000000-0000-0000-0000-@MACHINE_ID@-$i)"
                i=$((i + 1))
            done
            exit ;;
        --query-gpu=*) query=${argument#*=} ;;
        --format=*) format=,${argument#*=}, ;;
        -i | --id=*) ;;
        -*) echo "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help." >&2; exit 6 ;;
    esac
done
if [ -z "$query" ]; then
    echo "NVIDIA-SMI $driver   Driver Version: $driver   CUDA Version: $cuda"
    echo "$gpus x NVIDIA $name, $memory MiB"
    exit
fi
unit() { case "$format" in *,nounits,*) ;; *) printf ' %s' "$1" ;; esac; }
value() {
    case "$1" in
        index) printf %s "$2" ;;
        count) printf %s "$gpus" ;;
        name | gpu_name) printf 'NVIDIA %s' "$name" ;;
        uuid | gpu_uuid) printf 'GPU-00000000-0000-0000-0000-@MACHINE_ID@-%s' "$2" ;;
        driver_version) printf %s "$driver" ;;
        compute_cap) printf %s "$capability" ;;
        memory.total) printf %s "$memory"; unit MiB ;;
        memory.used) printf 1; unit MiB ;;
        memory.free) printf %s $((memory - 1)); unit MiB ;;
        utilization.gpu | utilization.memory) printf 0; unit % ;;
        temperature.gpu) printf 35 ;;
        power.draw) printf 25.00; unit W ;;
        power.limit) printf 350.00; unit W ;;
        *) printf '[N/A]' ;;
    esac
}
fields=$(echo "$query" | tr , ' ')
case "$format" in *,noheader,*) ;; *) echo "$query" | sed 's/,/, /g' ;; esac
i=0
while [ $i -lt "$gpus" ]; do
    comma=
    for field in $fields; do
        printf %s "$comma"
        value "$field" $i
        comma=', '
    done
    echo
    i=$((i + 1))
done
