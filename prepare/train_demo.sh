#!/usr/bin/env bash
# Train the bundled models from nothing: the tokenizer, LaMP, the masked transformer, the length estimator.
#
#   prepare/train_demo.sh DATA BERT
#
# DATA is a prepared data set (prepare/motion_features.py DATA --mirror), BERT a folder in the Hugging Face layout to
# start LaMP's text side from (all-MiniLM-L6-v2 for the bundled models). A stage that was interrupted goes on where it
# stopped, one that is done is not trained again; so run the same line until it ends. The sizes fit two CPU cores; with a
# GPU set GPU_ID, and more steps or width by the flags below.
set -euo pipefail
cd "$(dirname "$0")/.."

data=${1:?the folder of a prepared data set}
bert=${2:?a folder with config.json, vocab.txt and model.safetensors}
python=${PYTHON:-python}
common=(--data_root "$data" --gpu_id "${GPU_ID:--1}" --mixed_precision "${PRECISION:-bf16}")

# stage SCRIPT NAME STEPS FLAGS...: train up to STEPS in all, resuming; the mark says how far a stage has come.
stage() {
    local script=$1 name=$2 steps=$3
    shift 3
    local folder=checkpoints/t2m/$name resume=()
    [ "$(cat "$folder/steps" 2>/dev/null || echo 0)" -ge "$steps" ] && return
    [ -f "$folder/model/latest.tar" ] && resume=(--is_continue)
    "$python" "$script" --name "$name" "${common[@]}" --total_iter "$steps" --max_epoch 100000 "$@" "${resume[@]}"
    echo "$steps" > "$folder/steps"
}

# Tokenizer. A second part weighs the position of the joints more, which holds the root on its path.
vq=(--batch_size 64 --window_size 64 --width 256 --code_dim 256 --output_emb_width 256 --vq_dropout 0
    --lr 1e-3 --warm_up_iter 200 --gamma 0.4)
stage train_vq.py vq_demo 1500 "${vq[@]}" --milestones 1300 2800 4000 --loss_joint 0.004
stage train_vq.py vq_demo 4800 "${vq[@]}" --milestones 1300 2800 4000 --loss_joint 0.012
